#!/bin/sh
# Sees to it that the public images are there that Dockerfile and docker-compose.yml name: what is
# missing is pulled, and where no image registry can be reached, made under its name from Debian's
# packages. What is there already is left alone; `--force` makes all of them here, whatever is there.
# Making them needs root, docker, debootstrap and a Rust toolchain of the pinned version. Images made
# so are for trying and testing, not for releases.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
suite=bookworm
force=no
[ "${1:-}" = --force ] && force=yes

die() { echo "$0: $*" >&2; exit 1; }

# Both files are the one place that names these images.
debian=$(awk '$1 == "FROM" && $2 ~ /^debian:/ { print $2 }' "$root/Dockerfile")
rust=$(awk '$1 == "FROM" && $2 ~ /^rust:/ { print $2 }' "$root/Dockerfile")
redis=$(awk '$1 == "image:" && $2 ~ /^redis:/ { print $2 }' "$root/docker-compose.yml")
for image in "$debian" "$rust" "$redis"; do
    case $image in
        debian:"$suite"-* | rust:*-"$suite" | redis:*-"$suite") ;;
        *) die "'$image' is no image of $suite: correct this script" ;;
    esac
done

# Who cannot be reached once is not asked again.
registry=yes
pulled() {
    [ "$registry" = yes ] || return 1
    if timeout 600 docker pull --quiet "$1" >"$work/pull" 2>&1; then echo "pulled $1"; return 0; fi
    registry=no
    return 1
}
wanted() {
    [ "$force" = yes ] && return 0
    docker image inspect "$1" >/dev/null 2>&1 && return 1
    ! pulled "$1"
}

command -v docker >/dev/null || die "docker is not installed"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

if wanted "$debian"; then
    [ "$(id -u)" = 0 ] || die "debootstrap needs root"
    command -v debootstrap >/dev/null || die "debootstrap is not installed: apt-get install debootstrap"
    debootstrap --variant=minbase "$suite" "$work/debian" >"$work/log" || { cat "$work/log" >&2; exit 1; }
    rm -rf "$work/debian/var/cache/apt/archives" "$work/debian/var/lib/apt/lists"
    tar -C "$work/debian" -c . | docker import --change 'CMD ["bash"]' - "$debian" >/dev/null
    rm -rf "$work/debian"
    echo "made $debian"
fi

if wanted "$rust"; then
    version=${rust#rust:}
    version=${version%-slim-"$suite"}
    host=$(rustc --version | cut -d' ' -f2)
    case $host in
        "$version" | "$version".*) ;;
        *) die "the Dockerfile builds with Rust $version, this machine has $host: rustup toolchain install $version" ;;
    esac
    sysroot=$(rustc --print sysroot)
    mkdir "$work/rust" "$work/rust/toolchain"
    for part in bin lib; do cp -a "$sysroot/$part" "$work/rust/toolchain/$part"; done
    # Where a proxy signs what the package registry sends, its certificate is in the host's bundle.
    cp -L /etc/ssl/certs/ca-certificates.crt "$work/rust/"
    cat >"$work/rust/Dockerfile" <<END
FROM $debian
RUN apt-get update \\
    && apt-get install --yes --no-install-recommends gcc libc6-dev ca-certificates \\
    && rm -rf /var/lib/apt/lists/*
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY toolchain /usr/local
ENV CARGO_HOME=/usr/local/cargo
END
    docker build --quiet --tag "$rust" "$work/rust" >/dev/null
    rm -rf "$work/rust"
    echo "made $rust"
fi

if wanted "$redis"; then
    mkdir "$work/redis"
    # The user's number and the directory are those of the public image.
    cat >"$work/redis/Dockerfile" <<END
FROM $debian
RUN groupadd --system --gid 999 redis \\
    && useradd --system --uid 999 --gid redis --home-dir /data redis \\
    && apt-get update \\
    && apt-get install --yes --no-install-recommends redis-server \\
    && rm -rf /var/lib/apt/lists/* \\
    && install --directory --owner=redis --group=redis /data
VOLUME /data
WORKDIR /data
EXPOSE 6379
CMD ["redis-server"]
END
    docker build --quiet --tag "$redis" "$work/redis" >/dev/null
    rm -rf "$work/redis"
    echo "made $redis"
fi
