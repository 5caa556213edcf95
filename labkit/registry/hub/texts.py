"""The files that the hub's images have besides those of packages: entry points, configurations, pages.

Entry points do what those of the official images do (docker-library: nginx, redis, postgres), in words of our own.
"""

from __future__ import annotations

MINIMAL_RELEASE = """PRETTY_NAME="labkit's minimal image (busybox), a stand-in for Alpine Linux"
NAME="labkit minimal"
ID=labkit-minimal
HOME_URL="https://busybox.net/"
"""
MINIMAL_GREETING = """This image stands in for Alpine Linux. It is Debian's busybox: neither apk nor musl is in it.
"""

POLICY = """#!/bin/sh
# No service starts when its package is installed: a container runs what it was started with.
exit 101
"""

HELLO = """
Hello from labkit!
If you can read this, your installation works. For it to be printed,

 1. the client asked the daemon for a container of the image "hello-world";
 2. the daemon fetched the image, if it wasn't there, from a registry;
 3. the daemon made a container of it: namespaces, a control group, a root filesystem;
 4. the container's one program, cat, wrote this text, and the daemon passed it on to you.

Try something bigger:  run -it debian bash
"""

WHOAMI = """#!/bin/sh
echo "Content-Type: text/plain"
echo
echo "Hostname: $(hostname)"
ip -o addr 2>/dev/null | while read -r _ _ family address _; do
    case $family in inet | inet6) echo "IP: ${address%/*}" ;; esac
done
echo "RemoteAddr: ${REMOTE_ADDR:-}:${REMOTE_PORT:-}"
echo "$REQUEST_METHOD ${REQUEST_URI:-/} HTTP/1.1"
echo "Host: ${HTTP_HOST:-}"
echo "User-Agent: ${HTTP_USER_AGENT:-}"
"""

NGINX_ENTRYPOINT = """#!/bin/sh
# Runs what lies in /docker-entrypoint.d, in the order of names, before nginx: *.envsh in this shell, *.sh by itself.
set -e
if [ "$1" = nginx ]; then
    for step in /docker-entrypoint.d/*; do
        [ -x "$step" ] || continue
        case $step in
        *.envsh) . "$step" ;;
        *.sh) "$step" ;;
        esac
    done
fi
exec "$@"
"""
NGINX_ENTRYPOINT_README = """Executable files here run before nginx starts, in the order of their names:
*.sh by themselves, and *.envsh in the entry point's shell, whose variables they may set.
"""
NGINX_SITE = """server {
    listen 80;
    server_name localhost;

    location / {
        root /usr/share/nginx/html;
        index index.html index.htm;
    }

    error_page 500 502 503 504 /50x.html;
    location = /50x.html {
        root /usr/share/nginx/html;
    }
}
"""
NGINX_WELCOME = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Welcome to nginx!</title></head>
<body>
<h1>Welcome to nginx!</h1>
<p>If you see this page, nginx works in its container. The image is labkit's, of Debian's packages.</p>
<p>Put pages of your own into <code>/usr/share/nginx/html</code>.</p>
</body>
</html>
"""
NGINX_ERROR = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Error</title></head>
<body><h1>An error occurred.</h1><p>The page can't be shown at the moment.</p></body>
</html>
"""

REDIS_ENTRYPOINT = """#!/bin/sh
# As root it gives /data to the user redis and becomes that user. Options alone are redis-server's.
set -e
case ${1:-} in
-* | *.conf | '') set -- redis-server "$@" ;;
esac
if [ "$1" = redis-server ]; then
    if [ "$(id -u)" = 0 ]; then
        find . ! -user redis -exec chown redis '{}' +
        exec setpriv --reuid redis --regid redis --clear-groups -- "$0" "$@"
    fi
    umask 0077
    case " $* " in
    *' --protected-mode '* | *.conf' '*) ;;
    # Only what the container's network lets through can reach it, as in the official image.
    *) set -- "$@" --protected-mode no ;;
    esac
fi
exec "$@"
"""

POSTGRES_ENTRYPOINT = """#!/bin/sh
# As root it gives the data directory to the user postgres and becomes that user. An empty data directory becomes a
# cluster with the user, the password and the database of the environment, then runs /docker-entrypoint-initdb.d.
set -e
case ${1:-} in
-* | '') set -- postgres "$@" ;;
esac
if [ "$1" != postgres ]; then exec "$@"; fi
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /var/run/postgresql
    find "$PGDATA" /var/run/postgresql ! -user postgres -exec chown postgres '{}' +
    chmod 0700 "$PGDATA"
    exec setpriv --reuid postgres --regid postgres --init-groups -- "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    user=${POSTGRES_USER:-postgres}
    database=${POSTGRES_DB:-$user}
    method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
    if [ -z "${POSTGRES_PASSWORD:-}" ] && [ "$method" != trust ]; then
        echo 'Error: Database is uninitialized and superuser password is not specified.' >&2
        echo '       Specify POSTGRES_PASSWORD for the superuser, such as "-e POSTGRES_PASSWORD=password".' >&2
        exit 1
    fi
    password=$(mktemp)
    printf '%s\\n' "${POSTGRES_PASSWORD:-}" >"$password"
    [ -n "${POSTGRES_PASSWORD:-}" ] && given="--pwfile=$password" || given=
    # shellcheck disable=SC2086 # options of the user's, and one that may be missing
    initdb --username="$user" $given $POSTGRES_INITDB_ARGS
    rm -f "$password"
    echo "host all all all $method" >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
    pg_ctl --wait --options="-c listen_addresses=''" start
    run() { PGPASSWORD=${POSTGRES_PASSWORD:-} psql -v ON_ERROR_STOP=1 --no-psqlrc --username "$user" "$@"; }
    if [ "$database" != postgres ]; then run --dbname postgres -c "CREATE DATABASE \\"$database\\""; fi
    for file in /docker-entrypoint-initdb.d/*; do
        case $file in
        *.sh) . "$file" ;;
        *.sql) run --dbname "$database" -f "$file" ;;
        esac
    done
    pg_ctl --wait --mode=fast stop
    echo 'PostgreSQL init process complete; ready for start up.'
fi
exec "$@"
"""

SITE_INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Getting started</title><link rel="stylesheet" href="style.css">
</head>
<body><main>
<h1>It works: this page comes out of a container</h1>
<p>You have just run a container, on labkit. The command was something like</p>
<pre>docker run -d -p 8080:80 docker/getting-started</pre>
<dl>
<dt><code>-d</code></dt><dd>runs the container in the background, detached from your terminal</dd>
<dt><code>-p 8080:80</code></dt><dd>publishes port 80 of the container as port 8080 of the machine</dd>
<dt><code>docker/getting-started</code></dt><dd>names the image: this page, nginx, and the part of Debian it needs</dd>
</dl>
<p>The web server is an ordinary process of the machine's own kernel. What makes it a container is what the kernel
shows it: other processes, another root directory, another network.</p>
<p><a href="next.html">What to try next</a></p>
</main></body>
</html>
"""
SITE_NEXT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>What to try next</title><link rel="stylesheet" href="style.css">
</head>
<body><main>
<h1>What to try next</h1>
<ul>
<li><code>docker ps</code> lists the container that serves this page.</li>
<li><code>docker logs</code> with its ID shows the request that your browser has just made.</li>
<li><code>docker exec -it</code> with its ID and <code>bash</code> gives you a shell beside the server: change
<code>/usr/share/nginx/html/index.html</code> and load this page again.</li>
<li><code>docker diff</code> with its ID shows what you changed, in the container's own layer.</li>
<li><code>docker rm -f</code> with its ID removes it with your change. The image is as it was.</li>
<li><code>labkit explain</code> shows the kernel calls behind each of these.</li>
</ul>
<p><a href="index.html">Back</a></p>
</main></body>
</html>
"""
SITE_STYLE = """:root { color-scheme: light dark; }
body { font: 1.1rem/1.6 system-ui, sans-serif; margin: 0; }
main { margin: 0 auto; max-width: 42rem; padding: 2rem 1rem; }
pre, code { font-family: ui-monospace, monospace; }
pre { border: 1px solid; overflow-x: auto; padding: .7rem 1rem; }
dd { margin: 0 0 .5rem 1.5rem; }
"""
