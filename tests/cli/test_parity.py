"""The same words to `labkit` and to Docker's own command, on the same engine: the same bytes, the same status."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from typing import Any

import pytest

from tests.cli import recorded

pytestmark = pytest.mark.root

READING = """
ps
ps -a
ps -aq
ps -as --no-trunc
ps -a --format json
ps --format '{{json .}} {{.Label "c.d-e"}}'
ps --format 'table {{.ID}}\\t{{.Label "c.d-e"}}\\t{{.Names}}'
ps --format raw
ps -f status=exited -q
ps -f foo
ps -n 1 -q
ps -l --format '{{.Names}}'
ps --format '{{.Foo}}'
ps --format '{{'
ps -x --help
images
images --digests --no-trunc
images --format json
images nosuch
image ls -q
images --tree
images --tree -a
images --tree -q
images --tree --digests
images --tree --format x
images --tree nosuch
images -f dangling=true
images -f dangling=maybe
images -f foo=bar
images -f before=nosuch
images -f since=labbb
images -f reference=lab* -q
images -f label=nosuch
images -f until=1h
history labbb
history -H=false --no-trunc labbb
history --format json labbb
inspect web
inspect labbb
inspect nosuch web
inspect -f '{{.Id' web
inspect -f '{{.Foo}}' web
inspect -f '{{.Name}} {{.Config.Cmd}} {{json .State}} {{range .Config.Env}}{{println .}}{{end}}' web
inspect -f '{{index .Config.Labels "a"}} {{.HostConfig.NetworkMode}} {{len .Config.Cmd}}' web
inspect --type image web
container inspect nosuch
image inspect nosuch
port web
port web 80
port nosuch
top web -o pid,comm
top nosuch
rm nosuch nosuch
rm web
stop nosuch
kill nosuch
start nosuch gone2
restart nosuch
rename nosuch x
rename a
tag nosuch x
rmi nosuch
wait gone
wait nosuch
logs gone
logs --tail 1 gone
logs nosuch
logs --since foo web
pause nosuch
unpause web
attach gone
attach nosuch
exec nosuch true
exec web sh -c 'echo out; echo err >&2; exit 5'
exec web nosuchprogram
exec -e A=b -w /tmp web sh -c 'echo $A; pwd'
exec -t web sh -c 'test -t 1; echo $?'
exec web
system df
system df -v
system df --format json
system df -v --format json
system df --format raw
system df --format 'table {{.Type}}\\t{{.Size}}'
system df --format '{{.Foo}}'
system df -v --format '{{range .Images}}{{.ID}} {{.UniqueSize}} {{.Containers}}{{end}}'
system df -v --format 'table {{.Type}}'
system df x
image prune
image prune -f
image prune -f --filter label=nosuch
image prune -f --filter foo=bar
image prune -f --filter until=1h --filter until=2h
image prune -a --filter until=nonsense -f
save nosuch
commit nosuch
commit -c 'RUN x' gone
commit gone x@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
commit
export nosuch
export -o /nosuch/x gone
export -o /dev gone
export -o /dev/null gone
save -o /nosuch/x labbb
save -o /dev/null labbb
import nosuchfile
version --format '{{.Server.Version}}'
info --format '{{.ServerVersion}} {{.NCPU}}'
container ls
container list -a
network ls
network ls -q --no-trunc
network list --format json
network ls --format '{{json .}} {{.Label "c.d-e"}}'
network ls --format 'table {{.ID}}\\t{{.Internal}}\\t{{.IPv6}}\\t{{.IPv4}}\\t{{.Labels}}'
network ls --format '{{.Name}} {{.CreatedAt}}'
network ls -q --format '{{.Name}}'
network ls --format '{{.Foo}}'
network ls --format raw
network ls -f driver=bridge -f name=la
network ls -f dangling=true
network ls -f label=a=b -f label=nosuch
network ls -f type=custom -q
network ls -f type=foo
network ls -f dangling=foo
network ls -f foo=bar
network ls -f foo
network ls x
network inspect lab10
network inspect lab10 nosuch lab2
network inspect -f '{{.Name}} {{json .IPAM}} {{range .IPAM.Config}}{{.Subnet}}{{end}}' lab10
network inspect -f '{{.Foo}}' lab10
network inspect -v nosuch
network inspect
inspect lab10
inspect --type network lab10 web
network rm nosuch
network rm nosuch lab5 bridge
network rm -f nosuch lab5
network rm
network prune
network prune -f --filter label=nosuch
network prune -f --filter foo=bar
network prune -f --filter until=1h --filter until=2h
network create
network create lab10
network create host
network create ''
network create -d nosuch x
network create --subnet x x
network create --subnet x --gateway 1.2.3.4 x
network create --subnet 10.201.0.0/24 --subnet 10.201.0.0/25 x
network create --subnet 10.201.0.0/24 --gateway 10.202.0.1 x
network create --subnet 10.201.0.0/24 --gateway 10.201.0.1,10.201.0.2 x
network create --subnet 10.201.0.0/24 --subnet 10.203.0.0/24 --gateway 10.201.0.1 --gateway 10.201.0.2 x
network create --subnet 10.201.0.0/24 --ip-range 10.202.0.0/25 x
network create --subnet 10.201.0.0/24 --ip-range foo/25 x
network create --subnet 10.201.0.0/24 --ip-range 10.201.0.0/25 --subnet 10.203.0.0/24 --ip-range 10.201.0.128/25 x
network create --subnet 10.201.0.0/24 --aux-address a=10.202.0.1 x
network create --subnet 10.201.0.0/24 --aux-address a x
network create --ip-range 10.201.0.0/24 x
network create --gateway 10.201.0.1 x
network create --subnet 10.201.0.1/24 x
network create --subnet 10.211.0.0/25 x
network create --label =x x
network create --label 'a b=x' x
network create -o com.docker.network.driver.mtu=foo x
network create --foo x
network connect lab2
network connect nosuch web
network connect lab2 nosuch
network connect lab2 web
network connect --ip 10.99.0.1 lab10 gone
network connect --ip foo lab10 gone
network connect --ip6 10.211.0.9 lab10 gone
network connect --link a:b:c lab10 gone
network connect --driver-opt a lab10 gone
network connect --gw-priority x lab10 gone
network connect host gone
network connect none gone
network disconnect lab2 gone
network disconnect nosuch gone
network disconnect lab2 nosuch
network disconnect host web
network foo
volume create labvol --label a=b
volume create a
volume create -d nosuch labx
volume create -o bad=1 labx
volume ls
volume ls -q
volume ls --format json
volume ls --format '{{.Name}} {{.Driver}} {{.Label "a"}} {{.Scope}} {{.Links}} {{.Size}}'
volume ls --format 'table {{.Name}}\\t{{.Labels}}'
volume ls --format '{{.Foo}}'
volume ls -f dangling=foo
volume ls -f foo=bar
volume ls -f foo
volume ls -f name=labv -f driver=local -q
volume ls x
volume inspect labvol nosuch
volume inspect -f '{{.Name}} {{json .Labels}}' labvol
volume inspect -f '{{.Foo}}' labvol
volume inspect
inspect labvol
inspect --type volume labvol web
volume rm nosuch
volume rm -f nosuch
volume rm
volume prune
volume prune -f --filter label=nosuch
volume prune -f --filter foo=bar
volume prune -a --filter all=1
volume foo
container foo
foo
ps foo
ps --foo
"""

RUNNING = """
run --rm --network none labbb sh -c 'echo out; echo err >&2; exit 7'
run --rm --network none labbb nosuch
run --rm --network none labbb /etc
run --rm --network none -a stderr labbb sh -c 'echo out; echo err >&2'
run --rm --network none --entrypoint echo labbb hi there
run --rm --network none -h box -e FOO=bar -w /tmp labbb sh -c 'hostname; echo $FOO; pwd'
run --rm --network none -e HOME -e NOSUCHVARIABLE labbb sh -c 'echo $HOME'
run --rm --network none -m 1k labbb true
run --network none --name web labbb true
run -it labbb true
run -m foo labbb
run --cpus x labbb
run --ulimit foo labbb
run -a foo labbb
run --restart always --rm labbb
run --pull foo labbb
run --pull never nosuch
run --name
run -Z
run
run -d -a stdin labbb
run -d --rm -p foo labbb
run -v :/x labbb
run -v ab:b labbb
run -v ab:/b:x labbb
run -v ab:/b:ro:x labbb
run -v ab: labbb
run -v /: labbb
run -v /tmp:/b -v /etc:/b labbb
run --tmpfs /x:foo=bar labbb
run --volumes-from nosuch labbb
run --mount type=bind,src=/nosuch,dst=/x labbb
run --mount type=bind,dst=/x labbb
run --mount type=volume,dst=/x,readonly labbb
run --mount type=tmpfs,dst=/x,tmpfs-mode=9 labbb
run --mount type=bind,src=/tmp,dst=/x,bind-propagation=foo labbb
run --mount type=bind,src=/tmp,dst=/x,bind-recursive=foo labbb
run --mount type=bind,src=/tmp,dst=/x,bind-recursive=readonly labbb
run --mount type=bind,src=/tmp,dst=/x,readonly,bind-recursive=readonly labbb
run --mount type=bind,src=/tmp,dst=/x,bind-recursive=writable labbb
run --mount type=volume,src=v,dst=/x,bind-recursive=writable labbb
run --mount type=bind,src=/tmp,dst=/x,bind-nonrecursive labbb
run --mount type=image,src=x,dst=/x labbb
run --mount foo labbb
run --device '' labbb
run --security-opt foo labbb
run --env-file /nosuch labbb
run --health-interval=-1s labbb
run --gpus foo=1 labbb
run --add-host foo labbb
run --log-opt a=b --log-driver none labbb
run --memory-swappiness 200 labbb
run --pid foo labbb
run --ip foo labbb
run --ip 1.2.3.4 labbb
run --ip6 1.2.3.4 --network lab10 labbb
run --ip 10.212.0.1 --network lab10 labbb
run --mac-address x labbb
run --dns x labbb
run --dns-search x..y labbb
run --dns-search 1.2 labbb
run --link a:b:c labbb
run --link nosuch:x labbb
run --network name=lab10,foo=x labbb
run --network name=lab10,foo labbb
run --network name=lab10,gw-priority=x labbb
run --network alias=b labbb
run --network a=b labbb
run --network '' labbb
run --network nosuch labbb
run --network container: labbb
run --network container:nosuch labbb
run --network name=lab10,mac-address=zz labbb
run --network name=lab10 --network name=lab10 labbb
run --network lab10 --network host labbb
run --network name=lab10,alias=y --network-alias z labbb
run --network name=lab10,ip=1.2.3.4 --ip 1.2.3.4 labbb
run --network name=lab10,link-local-ip=1.2.3.4 --link-local-ip 2.3.4.5 labbb
run --network name=lab10,mac-address=92:d0:c6:0a:29:33 --mac-address 92:d0:c6:0a:29:34 labbb
run --network name=lab10,driver-opt=y labbb
run --network-alias z labbb
run --network name=bridge,alias=x labbb
run --net host --network-alias z labbb
run --expose x labbb
run --expose 1:2 labbb
run --expose 10-5 labbb
run --expose 80/foo labbb
run -p x labbb
run -p 80:x labbb
run -p x:80 labbb
run -p 1.2.3:80:80 labbb
run -p 80/foo labbb
run -p 80-82:90-91 labbb
run -p :: labbb
run -p 99999 labbb
run -p [::1:80 labbb
run -p localhost:80:80 labbb
run -p target=x labbb
run -p published=80 labbb
run -p target=80,published=x labbb
run -p target=80,protocol=x labbb
run -p target=80,x labbb
run -p '' labbb
run --add-host a:b labbb
run --add-host a: labbb
run --add-host :1.2.3.4 labbb
run --add-host ::1=1.2.3.4 labbb
run --label =x labbb
run --network lab10 --network-alias x --ip 10.211.0.77 --rm labbb sh -c 'ip -o -4 address show eth0; hostname -i'
run --rm --network none --network-alias x labbb true
run --rm -h box --domainname lab --add-host a:1.2.3.4 labbb tail -n 2 /etc/hosts
run --rm --dns 1.2.3.4 --dns-search lab --dns-option ndots:1 labbb grep -v "^#" /etc/resolv.conf
"""

HELPS = """
commit export images ps inspect stop kill restart wait rm logs attach rename top pause unpause port tag load save import
history pull info events diff
"""


NETWORK_HELPS = [f"network {name}" for name in ("disconnect", "inspect", "ls", "prune", "rm")]


def words(text: str) -> list[str]:
    return [line for line in text.strip().splitlines() if line]


@pytest.fixture(autouse=True)
def containers(engine: str) -> None:
    docker("run -d --name web --network none -l a=b -l c.d-e=f labbb sleep 1000")
    docker("network create lab10 --subnet 10.211.0.0/24 --label c.d-e=f")  # docker lists several in any order
    docker("network create lab2 --subnet 10.213.0.0/24 --internal")
    docker("run --name gone --network none labbb sh -c 'echo one; echo two >&2; exit 3'")


def docker(line: str) -> tuple[int, str, str]:
    """What docker answers, with its own name replaced by ours."""
    status, out, err = told(["docker", *shlex.split(line)])
    own_name = re.compile(r"\bdocker(?=:| [a-z-]| \[|$)", re.MULTILINE)
    return status, own_name.sub("labkit", out), own_name.sub("labkit", err)


def labkit(line: str) -> tuple[int, str, str]:
    return told([sys.executable, "-m", "labkit.cli.main", *shlex.split(line)])


def told(argv: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def differences(lines: list[str]) -> str:
    """What was answered differently. Asked again when a second may have passed in between: texts say "2 seconds"."""
    found = []
    for line in lines:
        for _ in range(10):
            ours, theirs = compared(line)
            if ours == theirs:
                break
        else:
            found.append(f"\n{line}\n   labkit: {ours}\n   docker: {theirs}")
    return "".join(found)


def compared(line: str) -> tuple[Any, Any]:
    """Our answer and docker's: the recorded one to words that not all versions of docker answer alike."""
    answer = recorded.answers("texts").get(line)
    if recorded.is_installed():
        theirs = docker(line)
        if answer is not None:
            recorded.check("texts", line, masked(theirs))
        return labkit(line), theirs
    return (labkit(line), docker(line)) if answer is None else (masked(labkit(line)), answer)


def masked(answer: tuple[int, str, str]) -> list[int | str]:
    status, out, err = answer
    return [status, recorded.masked(out), recorded.masked(err)]


@pytest.mark.parametrize("lines", [READING, RUNNING], ids=["reading", "running"])
def test_the_same_words_give_the_same(lines: str) -> None:
    assert differences(words(lines)) == ""


def test_help(monkeypatch: pytest.MonkeyPatch) -> None:
    # With no engine to ask, docker shows the options of its newest API.
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/x.sock")
    assert (
        differences([f"{command} --help" for command in [*HELPS.split(), "image prune", "system df", *NETWORK_HELPS]])
        == ""
    )


def test_inspect_as_json() -> None:
    """On one line, which docker before 23 can't print."""
    status, out, err = labkit("inspect -f json web")
    assert (status, err) == (0, "")
    assert json.loads(out) == json.loads(docker("inspect web")[1])
    assert out == json.dumps(json.loads(out), separators=(",", ":"), ensure_ascii=False) + "\n"
