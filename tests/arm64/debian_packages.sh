# For scripts to source: Debian packages of another architecture, by apt with a state of its own. Nothing is
# installed into the system, and no root rights are needed.

# unpack_arm64 FOLDER PACKAGE...: empties the folder and unpacks the packages into it, with their dependencies.
unpack_arm64() {
    local root="$1" package
    shift
    rm -rf "$root"
    mkdir -p "$root"/apt/{lists/partial,archives/partial}
    touch "$root/apt/status"
    local apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Install-Recommends=0
        -o Debug::NoLocking=1 -o Dir::State="$root/apt" -o Dir::State::status="$root/apt/status"
        -o Dir::Cache="$root/apt")
    "${apt[@]}" update
    "${apt[@]}" install --yes --download-only "$@" >/dev/null
    for package in "$root"/apt/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
    rm -rf "$root/apt"
}
