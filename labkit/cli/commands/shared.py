"""Options that several commands share, word for word."""

from __future__ import annotations

from labkit.cli.grammar import Flag

_LEARN_MORE = (
    "Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates"
)

LIST_FORMAT_HELP = f"""Format output using a custom template:
'table':            Print output in table format with column headers (default)
'table TEMPLATE':   Print output in table format using the given Go template
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
{_LEARN_MORE}"""

INSPECT_FORMAT_HELP = f"""Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
{_LEARN_MORE}"""

LIST_FORMAT = Flag("format", "", "string", LIST_FORMAT_HELP)
INSPECT_FORMAT = Flag("format", "f", "string", INSPECT_FORMAT_HELP)
FILTER = Flag("filter", "f", "filter", "Filter output based on conditions provided")
NO_TRUNC = Flag("no-trunc", "", "bool", "Don't truncate output")
DETACH_KEYS = Flag("detach-keys", "", "string", "Override the key sequence for detaching a container")
PLATFORM = Flag("platform", "", "string", "Set platform if server is multi-platform capable")


def platform_flag(purpose: str) -> Flag:
    return Flag("platform", "", "string", f'{purpose}. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")')
