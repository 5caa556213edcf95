"""What people type: the commands that are put to labkit and to dockerd, in order, a subject a group.

`sh:NAME SCRIPT` is a script in a running container. `!` before a line: it is done, and its answer isn't compared.
"""

from __future__ import annotations

NONE = "--network none"
SLEEP = "busybox sleep 1000"

GROUPS = {
    "run": rf"""
run --rm {NONE} busybox echo hello world
run --rm {NONE} busybox sh -c "echo out; echo err >&2; exit 42"
run --rm {NONE} busybox sh -c "kill -TERM $$; sleep 1"
run --rm {NONE} busybox nosuchprogram
run --rm {NONE} busybox /etc
run --rm {NONE} busybox /etc/passwd
run --rm {NONE} --entrypoint /bin/echo busybox from entrypoint
run --rm {NONE} --entrypoint "" busybox echo reset
run --rm {NONE} -e A=1 -e B=two -e EMPTY= busybox sh -c "echo $A $B [$EMPTY] $HOME $PATH $HOSTNAME"
run --rm {NONE} -w /var/deep/er busybox pwd
run --rm {NONE} -w relative busybox pwd
run --rm {NONE} -h named --domainname dom.test busybox sh -c "hostname; hostname -f 2>/dev/null; cat /etc/hostname"
run --rm {NONE} -u bob busybox id
run --rm {NONE} -u 1000:10 busybox id
run --rm {NONE} -u 4242 busybox id -u
run --rm {NONE} -u nosuch busybox id
run --rm {NONE} -u bob:nosuch busybox id
run --rm {NONE} -u +5:+7 busybox id
run --rm {NONE} -u 2147483648 busybox id
run --rm {NONE} -u -1 busybox id
run --rm {NONE} -u 99999999999999999999 busybox id
run --rm {NONE} --group-add -5 busybox id
run --rm {NONE} --group-add wheel -u bob busybox id
run --rm {NONE} --read-only busybox touch /x
run --rm {NONE} --read-only --tmpfs /tmp busybox touch /tmp/x
run --rm {NONE} --tmpfs /t:size=64k,mode=700 busybox sh -c "grep ' /t ' /proc/mounts; stat -c %a /t"
run --rm {NONE} -v /etc:/host:ro busybox touch /host/x
run --rm {NONE} -v relative/path:/x busybox true
run --rm {NONE} -v /a:/b:nosuchmode busybox true
run --rm {NONE} -v /a:relative busybox true
run --rm {NONE} --mount type=bind,src=/nosuch/dir,dst=/x busybox true
run --rm {NONE} --cap-drop ALL busybox grep CapEff /proc/self/status
run --rm {NONE} --cap-add SYS_ADMIN --cap-drop CHOWN busybox grep CapEff /proc/self/status
run --rm {NONE} --cap-add NOSUCH busybox true
run --rm {NONE} --privileged busybox grep -e CapEff -e Seccomp: /proc/self/status
run --rm {NONE} busybox grep -e CapEff -e CapBnd -e Seccomp: -e NoNewPrivs /proc/self/status
run --rm {NONE} --security-opt no-new-privileges busybox grep NoNewPrivs /proc/self/status
run --rm {NONE} --security-opt seccomp=unconfined busybox grep Seccomp: /proc/self/status
run --rm {NONE} --security-opt nosuch=1 busybox true
run --rm {NONE} --ulimit nofile=100:200 busybox sh -c "ulimit -n; ulimit -Hn"
run --rm {NONE} --ulimit nosuch=1 busybox true
run --rm {NONE} --shm-size 1m busybox sh -c "df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d' ' -f2"
run --rm {NONE} --sysctl net.ipv4.ip_forward=0 busybox cat /proc/sys/net/ipv4/ip_forward
run --rm {NONE} --sysctl kernel.nosuch=0 busybox true
run --rm {NONE} --pids-limit 5 busybox sh -c "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null"
run --rm {NONE} -m 32m busybox cat /sys/fs/cgroup/memory/memory.limit_in_bytes
run --rm {NONE} -m 1m busybox true
run --rm {NONE} --cpus 99 busybox true
run --rm {NONE} --cpus 0.5 busybox cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us
run --rm {NONE} --cpu-shares 77 busybox cat /sys/fs/cgroup/cpu/cpu.shares
run --rm {NONE} --cpu-shares 1 busybox true
run --rm {NONE} --cpu-shares 300000 busybox true
run --rm {NONE} --cpuset-cpus 0 busybox grep Cpus_allowed_list /proc/self/status
run --rm {NONE} --cpuset-cpus 77 busybox true
run --rm {NONE} --device /dev/zero:/dev/nil:r busybox sh -c "head -c 1 /dev/nil | od -tx1; ls -l /dev/nil | cut -c1-10"
run --rm {NONE} --device /dev/nosuch busybox true
run --rm {NONE} --oom-score-adj 500 busybox cat /proc/self/oom_score_adj
run --rm {NONE} --oom-score-adj 5000 busybox true
run --rm {NONE} -t busybox tty
run --rm {NONE} --pid host busybox sh -c "test -d /proc/2 && echo host"
run --rm {NONE} --ipc none busybox sh -c "grep -c ' /dev/shm ' /proc/mounts"
run --rm {NONE} --uts host -h x busybox true
run --rm {NONE} --pid container:nosuch busybox true
run --rm {NONE} --name _bad busybox true
run --rm {NONE} --restart always --rm busybox true
run --rm {NONE} --restart nosuch busybox true
run --rm {NONE} --stop-signal NOSUCH busybox true
run --rm {NONE} --log-driver nosuch busybox true
run --rm {NONE} --init busybox sh -c "echo child"
run --rm --network nosuch busybox true
run --rm --pull never {NONE} nosuchimage true
run --rm {NONE} BadImage true
run {NONE} --nosuchflag busybox
run
run --rm {NONE} --memory nonsense busybox true
run --rm {NONE} -p nonsense busybox true
""",
    "life": rf"""
create {NONE} --name life busybox sh -c "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done"
create {NONE} --name life busybox true
ps -a --format "{{{{.Names}}}} {{{{.Image}}}} {{{{.Command}}}} {{{{.Status}}}}"
start nosuch
start life
start life
ps --format "{{{{.Names}}}} {{{{.State}}}}"
pause life
pause life
ps --filter status=paused --format "{{{{.Names}}}} {{{{.State}}}}"
exec life true
unpause life
unpause life
!exec life sleep 0.5
stop -t 5 life
wait life
inspect -f "{{{{.State.Status}}}} {{{{.State.ExitCode}}}} {{{{.State.Running}}}} {{{{.State.OOMKilled}}}}" life
stop life
kill life
pause life
exec life true
top life
restart -t 0 life
rename life other
rename other other
rename nosuch x
rename other _bad
kill -s NOSUCH other
kill -s 99 life
container prune -f --filter until=bad
container prune -f --filter until=2020-01-01
image prune -f --filter until=bad
image prune -f --filter until=2020-01-01T10
kill -s USR1 nosuch
rm other
rm -f other
rm other
rm -f nosuch
run -d --name quick {NONE} busybox sh -c "exit 9"
wait quick
ps -a --filter exited=9 --format "{{{{.Names}}}}"
ps -a --filter exited=8 --format "{{{{.Names}}}}"
ps -a --filter nosuch=1
ps -a --filter status=nosuch
start -a quick
logs quick
logs nosuch
rm quick quick
run -d --name broken {NONE} busybox nosuchprogram
inspect -f "{{{{.State.Status}}}} {{{{.State.ExitCode}}}}" broken
ps -a --format "{{{{.Names}}}} {{{{.State}}}}"
rm broken
run -d --name upd {NONE} -m 32m {SLEEP}
update -m 64m --memory-swap 128m upd
inspect -f "{{{{.HostConfig.Memory}}}} {{{{.HostConfig.MemorySwap}}}}" upd
sh:upd cat /sys/fs/cgroup/memory/memory.limit_in_bytes
update --cpus 0.5 upd
update --restart on-failure:3 upd
inspect -f "{{{{.HostConfig.RestartPolicy}}}} {{{{.HostConfig.NanoCpus}}}}" upd
update -m 1m upd
update --cpu-shares 1 upd
update nosuch
rm -f upd
run -d --name killed {NONE} {SLEEP}
kill killed
wait killed
inspect -f "{{{{.State.ExitCode}}}} {{{{.State.OOMKilled}}}} {{{{.State.Error}}}}" killed
start killed
stop -t 0 killed
inspect -f "{{{{.State.ExitCode}}}}" killed
rm killed
run -d --name oom {NONE} -m 16m --memory-swap 16m busybox tail /dev/zero
wait oom
inspect -f "{{{{.State.ExitCode}}}} {{{{.State.OOMKilled}}}}" oom
container prune -f --filter label=nosuch
rm -f oom
""",
    "filters": rf"""
network create lab
run -d --name first {NONE} -l x=1 -v vol:/data -v /etc:/host {SLEEP}
run -d --name second --network lab -l x=2 -p 127.0.0.1:8093:80 --expose 90/udp --expose 91-93 {SLEEP}
create --name third {NONE} busybox true
run --name fourth {NONE} busybox sh -c "exit 5"
run -d --name fifth {NONE} --health-cmd true --health-interval 100s {SLEEP}
pause fifth
ps -a --filter expose=80 --format "{{{{.Names}}}}"
ps -a --filter expose=90/udp --format "{{{{.Names}}}}"
ps -a --filter expose=90 --format "{{{{.Names}}}}"
ps -a --filter expose=92-99/tcp --format "{{{{.Names}}}}"
ps -a --filter expose=80/ --format "{{{{.Names}}}}"
ps -a --filter expose=nonsense
ps -a --filter expose=80:90
ps -a --filter publish=8093 --format "{{{{.Names}}}}"
ps -a --filter publish=80 --format "{{{{.Names}}}}"
ps -a --filter publish=8000-8100/tcp --format "{{{{.Names}}}}"
ps -a --filter publish=99999
ps -a --filter expose=80/udp --filter publish=8093 --format "{{{{.Names}}}}"
ps -a --filter is-task=true --format "{{{{.Names}}}}"
ps -a --filter is-task=false --format "{{{{.Names}}}}"
ps -a --filter is-task=x
ps -a --filter isolation=hyperv --format "{{{{.Names}}}}"
ps --filter exited=5 --format "{{{{.Names}}}}"
ps -a --filter exited=5 --format "{{{{.Names}}}}"
ps -a --filter exited=x
ps --filter before=fourth --format "{{{{.Names}}}}"
ps -a --filter before=fourth --filter since=first --format "{{{{.Names}}}}"
ps -a --filter before=nosuch
ps --filter status=created --filter status=paused --format "{{{{.Names}}}}"
ps -a --filter health=starting --filter health=healthy --format "{{{{.Names}}}}"
ps -a --filter health=nosuch
ps -a --filter name=^f --format "{{{{.Names}}}}"
ps -a --filter "name=^/f(irs|our)t?" --format "{{{{.Names}}}}"
ps -a --filter "name=third|fifth" --format "{{{{.Names}}}}"
ps -a --filter name=[ --format "{{{{.Names}}}}"
ps -a --filter label=x=1 --filter label=x=2 --format "{{{{.Names}}}}"
ps -a --filter network=lab --format "{{{{.Names}}}}"
ps -a --filter volume=vol --format "{{{{.Names}}}}"
ps -a --filter volume=/host --format "{{{{.Names}}}}"
ps -a --filter volume=/data/ --format "{{{{.Names}}}}"
top first -o user,args
top first -o nosuch
stats --no-stream --format "{{{{.Name}}}} {{{{.MemUsage}}}}" third
unpause fifth
rm -f first second third fourth fifth
network rm lab
""",
    "exec and logs": rf"""
run -d --name box {NONE} -e FROM=run -l colour=red {SLEEP}
exec box echo hello
exec box sh -c "echo out; echo err >&2; exit 5"
exec box nosuchprogram
exec -e X=1 box sh -c "echo $X $FROM"
exec -w /etc box pwd
exec -w /nosuch box pwd
exec -u bob box id
exec -u nosuch box id
exec -t box tty
exec -d box sh -c "sleep 100"
exec --privileged box grep CapEff /proc/self/status
exec box grep CapEff /proc/self/status
exec nosuch true
exec box
sh:box kill -9 $$
top box -o user,args
top box nosuch
run -d --name talker {NONE} busybox sh -c "echo problem >&2; sleep 0.3; for i in 1 2 3 4 5; do echo line $i; done"
!wait talker
logs talker
logs --tail 2 talker
logs --tail 0 talker
logs --tail nosuch talker
logs --since 1h talker
logs --until 1h talker
logs -t --tail 1 talker
logs --details talker
logs --since nosuch talker
logs -f talker
inspect -f "{{{{.Config.Labels.colour}}}} {{{{.Config.Env}}}}" box
inspect -f "{{{{json .Config.Cmd}}}}" box
inspect -f "{{{{.Nosuch}}}}" box
inspect nosuch
inspect --type image box
inspect --type container busybox
ps --filter label=colour=red --format "{{{{.Names}}}}"
ps --filter label=colour=blue --format "{{{{.Names}}}}"
ps --filter name=bo --format "{{{{.Names}}}} {{{{.Labels}}}}"
ps -a --filter ancestor=busybox --format "{{{{.Names}}}}"
ps -l --format "{{{{.Names}}}}"
ps -n 1 --format "{{{{.Names}}}}"
ps -aq --filter name=nosuch
ps -a --filter name=^/?b --format "{{{{.Names}}}}"
ps -a --filter name=^/box$ --format "{{{{.Names}}}}"
ps -a --filter isolation=x --format "{{{{.Names}}}}"
ps -a --filter is-task=false --format "{{{{.Names}}}}"
ps -aq --filter is-task=true
ps -aq --filter expose=8080-8090
ps -aq --filter expose=x
ps -aq --filter exited=x
diff talker
!exec box sh -c "echo x > /new; rm /etc/group; mkdir /d"
diff box
diff nosuch
port box
port nosuch
cp box:/nosuch /tmp/nosuch-target
cp nosuch:/x /tmp/nosuch-target
attach talker
attach nosuch
commit -m message -a author box made:1
image inspect -f "{{{{.Config.Cmd}}}} {{{{.Comment}}}} {{{{.Author}}}} {{{{len .RootFS.Layers}}}}" made:1
run --rm {NONE} made:1 cat /new
rmi made:1
stats --no-stream --format "{{{{.Name}}}} {{{{.PIDs}}}}" box
rm -f box talker
""",
    "images, volumes, networks, system": rf"""
images --format "{{{{.Repository}}}}:{{{{.Tag}}}}"
images nosuch
tag busybox other:v1
tag nosuch other:v2
tag busybox Bad:v1
images --format "{{{{.Repository}}}}:{{{{.Tag}}}}" other
history --format "{{{{.CreatedBy}}}}" busybox
image inspect -f "{{{{.Os}}}} {{{{.Architecture}}}} {{{{.RepoTags}}}}" other:v1
image inspect nosuch
rmi other:v1
rmi nosuch
run -d --name user {NONE} {SLEEP}
rmi busybox
rm -f user
image prune -f
volume create --label a=b vol
volume create vol
volume create -d nosuch vol2
volume create _bad!
volume ls --format "{{{{.Name}}}} {{{{.Driver}}}}"
volume ls -q --filter label=a=b
volume ls -q --filter label=a=c
volume inspect -f "{{{{.Name}}}} {{{{.Labels}}}} {{{{.Scope}}}}" vol
volume inspect nosuch
run --rm {NONE} -v vol:/v busybox sh -c "echo kept > /v/x"
run --rm {NONE} -v vol:/v:ro busybox cat /v/x
run --rm {NONE} -v vol:/v:ro busybox touch /v/y
run -d --name holder {NONE} -v vol:/v {SLEEP}
volume rm vol
rm -f holder
volume rm vol
volume rm vol
volume rm -f vol
network create lab
network create lab
network ls --format "{{{{.Name}}}} {{{{.Driver}}}} {{{{.Scope}}}}" --filter name=lab
run -d --name web --network lab -p 127.0.0.1:8088:80 busybox httpd -f -h /etc
port web
port web 80/tcp
port web 81/tcp
run --rm --network lab busybox wget -q -O - http://web/passwd
network rm lab
network disconnect lab web
network connect --alias x lab web
run --rm --network container:web busybox wget -q -O - http://127.0.0.1/passwd
run --rm --network container:nosuch busybox true
run -d --name second -p 127.0.0.1:8088:80 {SLEEP}
rm -f second web
network rm lab
network rm lab
network rm bridge
network inspect nosuch
network prune -f
volume prune -f
container prune -f
events --since 1s --until 0s --filter type=nosuch
events --since nosuch --until 0s
info --format "{{{{.Containers}}}} {{{{.CgroupVersion}}}} {{{{.OSType}}}} {{{{.Architecture}}}}"
version --format "{{{{.Server.Os}}}} {{{{.Server.Arch}}}}"
system df --format "{{{{.Type}}}} {{{{.TotalCount}}}}"
search --limit 500 x
save nosuch
load
export nosuch
import /nosuch/file
login --username x --password y 127.0.0.1:1
pull 127.0.0.1:1/nosuch
push nosuch
""",
    "inspect": rf"""
volume create vol
create --name plain {NONE} busybox true
create --name words {NONE} -e A=1 -l a=b -w /tmp -u bob -h host --entrypoint /bin/sh busybox -c "echo a b"
create --name bounds {NONE} -m 64m --memory-reservation 32m --cpus 0.5 --cpuset-cpus 0 busybox true
create --name cpu {NONE} --device-cgroup-rule "c 1:* rw" --cpu-shares 77 --cpu-quota 20000 --pids-limit 9 busybox true
create --name kernel {NONE} --ulimit nofile=10:20 --shm-size 1m --sysctl net.ipv4.ip_forward=0 busybox true
create --name rights {NONE} --cap-add SYS_ADMIN --cap-drop MKNOD --security-opt no-new-privileges busybox true
create --name mighty {NONE} --privileged --pid host --uts host --userns host busybox true
create --name places {NONE} -v vol:/v:ro -v /etc:/e --tmpfs /t:size=1m --mount type=volume,dst=/anonymous busybox true
create --name device {NONE} --ipc private --oom-score-adj 5 --device /dev/zero:/dev/nil:r busybox true
create --name again {NONE} --restart on-failure:3 --stop-signal USR1 --stop-timeout 7 --init busybox true
create --name watched {NONE} --health-cmd "test -e /x" --health-interval 5s --health-retries 2 busybox true
create --name logged {NONE} --log-driver json-file --log-opt max-size=1m --log-opt max-file=2 busybox true
create --name open -it {NONE} busybox sh
create --name named -p 127.0.0.1:8077:80 --expose 81 --dns 9.9.9.9 --dns-search x.test --add-host a:1.2.3.4 busybox true
run --name done {NONE} busybox sh -c "exit 3"
run -d --name up {NONE} --read-only --group-add wheel --cgroup-parent /lk-commands {SLEEP}
ps -a --format "{{{{.Names}}}} {{{{.Image}}}} {{{{.Command}}}} {{{{.State}}}} {{{{.Ports}}}} {{{{.Labels}}}}"
""",
}
"""A subject's commands: lines of words for docker."""
