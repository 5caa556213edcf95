"""Log drivers: where a container's output goes (moby `daemon/logger`).

`options` and `attributes` are what a container's LogConfig says, `formats` how entries lie in files (`json-file`,
`local`), `rotation` the files, `sending`, `syslog` and `journald` what is sent away, `logger` all of it for one run.
"""
