"""Go's text/template, as Docker's `--format` and the tags of its log drivers use it: `parsing`, then `rendering`."""
