"""A container's published ports: claimed at its start, served, moved when its networks change (moby `sandbox.go`).

Choosing and translating is `labkit.network.publishing`; what doesn't get translated is carried by a proxy.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from labkit.engine.execution import carry_out
from labkit.errors import KernelError, LabkitError
from labkit.network import proxy, publishing
from labkit.network.models import NetworkRecord, options_of
from labkit.plan import Context, Plan, Step
from labkit.trace import TraceContext

if TYPE_CHECKING:
    from labkit.engine.container import Container
    from labkit.engine.engine import Engine

log = logging.getLogger("labkit.engine")


def claim(engine: Engine, container: Container, networks: Iterable[NetworkRecord]) -> None:
    """Choose the host's ports for what the container publishes: through its first bridge network with a way out."""
    host, config = container.record.HostConfig, container.record.Config
    exposed = config.ExposedPorts if isinstance(config.ExposedPorts, dict) else {}
    wanted = publishing.parse(host.PortBindings, exposed, host.PublishAllPorts)
    network = next((one for one in networks if one.Bridge and not one.Internal), None)
    if wanted and network:
        endpoint = container.record.Networks[network.Name]
        claimed = engine.networks.ports.claim(
            wanted,
            container.name,
            endpoint.EndpointID,
            endpoint.IPAddress,
            endpoint.GlobalIPv6Address,
            options_of(network).host_ip,
        )
        container.record.Sandbox.Ports = list(claimed)


def serve(engine: Engine, container: Container, held: Context) -> None:
    """Carry to the container what reaches its ports of the host without being translated (`held` has the sockets)."""
    ports = proxy.held(container.record.Sandbox.Ports, held.descriptors)
    if ports:
        engine.networks.proxies[container.id] = proxy.Proxy(ports)
        engine.networks.proxies[container.id].start()


def hold_again(container: Container) -> Context:
    """The sockets of a running container's ports, which went with the daemon that had them."""
    context = Context()
    for operation in publishing.publish_operations("", container.record.Sandbox.Ports, translate=False):
        try:
            operation.run(context)
        except KernelError as error:
            log.warning("%s: %s: another program has it now", container.name, error)
    return context


def explained(container: Container, error: LabkitError) -> LabkitError:
    """A failure to hold or publish a port, in dockerd's words; any other as it is."""
    if not isinstance(error, KernelError):
        return error
    bindings = container.record.Sandbox.Ports
    addresses = {binding.ip for binding in bindings}
    endpoints = container.record.Networks.values()
    identity = next((one.EndpointID for one in endpoints if one.IPAddress in addresses), "")
    return publishing.explained(error, container.name, identity)


def stop(engine: Engine, container: Container) -> None:
    """End what carries to a container's ports."""
    if proxied := engine.networks.proxies.pop(container.id, None):
        proxied.stop()


def move(engine: Engine, container: Container, networks: list[NetworkRecord], trace: TraceContext) -> None:
    """Publish through another network what went through one that the container has left, or through a first one.

    `networks` are those that it has now. Raises LabkitError in dockerd's words; nothing is published then.
    """
    bindings, record = container.record.Sandbox.Ports, container.record
    own = {address for one in record.Networks.values() for address in (one.IPAddress, one.GlobalIPv6Address)}
    if bindings and all(binding.ip in own for binding in bindings):
        return
    host = engine.networks.host
    stop(engine, container)
    engine.networks.ports.release(bindings)
    record.Sandbox.Ports = []
    operations = publishing.withdraw_operations(host.table, bindings, host.translates)
    claim(engine, container, networks)
    operations += publishing.publish_operations(host.table, record.Sandbox.Ports, host.translates)
    if operations:
        _publish(engine, container, Plan("publish", tuple(Step("daemon", one) for one in operations)), trace)


def _publish(engine: Engine, container: Container, plan: Plan, trace: TraceContext) -> None:
    context = Context()
    try:
        carry_out(engine, plan, container.id, trace, context)
    except LabkitError as error:
        failure = explained(container, error)
        engine.networks.ports.release(container.record.Sandbox.Ports)
        container.record.Sandbox.Ports = []
        raise failure from error
    serve(engine, container, context)
