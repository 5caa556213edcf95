"""System call filters: Docker's profiles, compiled to what seccomp(2) runs before each system call.

Profile (`profile`) to OCI configuration to BPF program (`compiler`, `bpf`); `docker_default` is the filter of
a container that asks for none. Nothing here makes a system call: the operation that installs a program is
`labkit.kernel.process.InstallSeccomp`.
"""

from labkit.kernel.seccomp.bpf import describe
from labkit.kernel.seccomp.compiler import compile_oci, compile_profile
from labkit.kernel.seccomp.docker_default import default_profile
from labkit.kernel.seccomp.profile import to_oci

__all__ = ["compile_oci", "compile_profile", "default_profile", "describe", "to_oci"]
