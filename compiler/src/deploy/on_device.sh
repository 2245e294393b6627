# Runs on a device, through the shell of who logs in there: what --deploy, --status and --undeploy do.
# Arguments: operation, service, cluster, device, and what the operation takes. All of them are words of [a-z0-9_-].
set -eu
umask 022
operation=$1 service=$2 cluster=$3 device=$4
shift 4

if [ -d /run/systemd/system ] && [ "$(id -u)" -eq 0 ]; then
    kind=systemd base=/opt/partita socket=/run/$service/socket
else
    kind=script base=$HOME/.local/share/partita
fi
folder=$base/$cluster/$device
[ "$kind" = systemd ] || socket=$folder/run/socket
unit=/etc/systemd/system/$service.service

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# The version that `current` leads to, if any.
current() {
    link=$(readlink "$folder/current" 2>/dev/null) || return 0
    printf '%s' "${link#versions/}"
}

# A link is replaced by renaming, so that there is never none.
point_to() {
    rm -f "$folder/current.part"
    ln -s "versions/$1" "$folder/current.part"
    mv -f -T "$folder/current.part" "$folder/current" 2>/dev/null ||
        { rm -f "$folder/current" && mv -f "$folder/current.part" "$folder/current"; }
}

# The supervisor's process, if it is still that.
supervisor() {
    pid=$(cat "$folder/supervisor.pid" 2>/dev/null) || return 1
    tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$folder" || return 1
    printf '%s' "$pid"
}

stop() {
    if [ "$kind" = systemd ]; then
        [ ! -e "$unit" ] || systemctl stop "$service.service"
        return 0
    fi
    pid=$(supervisor) || pid=
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    tries=0
    while [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -le 50 ] || fail "process $pid of $service does not end"
        sleep 0.1 2>/dev/null || sleep 1
    done
    # Programs whose supervisor was killed.
    for exe in /proc/[0-9]*/exe; do
        case $(readlink "$exe" 2>/dev/null) in
        "$folder"/versions/*) pid=${exe#/proc/} && kill -9 "${pid%/exe}" 2>/dev/null || true ;;
        esac
    done
}

start() {
    if [ "$kind" = systemd ]; then
        cp "$folder/current/unit.service" "$unit.part"
        mv -f "$unit.part" "$unit"
        systemctl daemon-reload
        systemctl enable -q "$service.service"
        systemctl reset-failed "$service.service" 2>/dev/null || true
        systemctl restart --no-block "$service.service"
        return 0
    fi
    stop
    if command -v setsid >/dev/null 2>&1; then
        setsid sh "$folder/current/supervise.sh" "$folder" </dev/null >/dev/null 2>&1 &
    else
        nohup sh "$folder/current/supervise.sh" "$folder" </dev/null >/dev/null 2>&1 &
    fi
}

# Removes what was put here and nothing else; folders stay where others have put something into them.
remove() {
    stop
    if [ "$kind" = systemd ] && [ -e "$unit" ]; then
        systemctl disable -q "$service.service"
        rm -f "$unit"
        systemctl daemon-reload
        systemctl reset-failed "$service.service" 2>/dev/null || true
    fi
    rm -rf "$folder/versions" "$folder/current" "$folder/current.part" "$folder/run"
    rm -f "$folder/log" "$folder/log.part" "$folder/restarts" "$folder/supervisor.pid"
    rmdir "$folder" "$base/$cluster" 2>/dev/null || true
    if [ -d "$base" ] && [ -z "$(ls "$base")" ]; then
        [ ! -e "$base/.group" ] || groupdel partita 2>/dev/null || true
        top=$(cat "$base/.made" 2>/dev/null || printf '%s' "$base")
        rm -f "$base/.group" "$base/.made"
        at=$base
        while rmdir "$at" 2>/dev/null && [ "$at" != "$top" ]; do at=$(dirname "$at"); done
    fi
}

case $operation in
probe)
    at=$base
    while [ ! -d "$at" ]; do at=$(dirname "$at"); done
    printf 'machine=%s\nkind=%s\nuser=%s\n' "$(uname -m)" "$kind" "$(id -un)"
    printf 'free_kib=%s\n' "$(df -Pk "$at" | awk 'NR == 2 { print $4 }')"
    printf 'version=%s\n' "$(current)"
    [ -w "$at" ] || fail "$(id -un) may not write to $at"
    ;;
put) # version; a tar file of its files comes on standard input
    version=$folder/versions/$1
    if [ ! -d "$base" ]; then
        top=$base
        while [ ! -d "$(dirname "$top")" ]; do top=$(dirname "$top"); done
        mkdir -p "$base"
        printf '%s\n' "$top" >"$base/.made"
    fi
    mkdir -p "$folder/versions"
    rm -rf "$version.part"
    mkdir "$version.part"
    tar -xof - -C "$version.part"
    "$version.part/program" --help >/dev/null || { rm -rf "$version.part"; fail "the program does not start here"; }
    # The same version may be there with another key.
    if [ -d "$version" ]; then
        [ ! -e "$version.part/identity.key" ] || mv -f "$version.part/identity.key" "$version/identity.key"
        rm -rf "$version.part"
    else
        mv "$version.part" "$version"
    fi
    if [ "$kind" = systemd ] && ! getent group partita >/dev/null; then
        groupadd --system partita
        : >"$base/.group"
    fi
    ;;
drop) # version that is not switched to after all
    if [ -e "$folder/current" ]; then rm -rf "$folder/versions/$1"; else remove; fi
    ;;
switch) # version
    point_to "$1"
    start
    ;;
back) # version that does not answer, version before it or -
    if [ "$2" = - ]; then
        remove
        exit 0
    fi
    point_to "$2"
    start
    [ "$1" = "$2" ] || rm -rf "$folder/versions/$1"
    ;;
keep) # version, version before it or -; all others go
    for version in "$folder"/versions/*; do
        case ${version##*/} in "$1" | "$2") ;; *) rm -rf "$version" ;; esac
    done
    ;;
status)
    printf 'kind=%s\nversion=%s\n' "$kind" "$(current)"
    [ -e "$folder/current" ] || exit 0
    if [ "$kind" = systemd ]; then
        printf 'restarts=%s\n' "$(systemctl show -p NRestarts --value "$service.service")"
        printf 'fault=%s\n' "$(journalctl -q "_SYSTEMD_UNIT=$service.service" -n 1 -o cat --no-pager 2>/dev/null | tail -n 1)"
    else
        printf 'restarts=%s\n' "$(cat "$folder/restarts" 2>/dev/null)"
        printf 'fault=%s\n' "$(tail -n 2 "$folder/log" 2>/dev/null | tr '\n' ' ')"
    fi
    printf -- '---\n'
    "$folder/current/program" --status --socket "$socket" 2>/dev/null || true
    ;;
talk) exec "$folder/current/program" --talk --socket "$socket" ;;
remove) remove ;;
*) fail "unknown operation $operation" ;;
esac
