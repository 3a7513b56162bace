//! Who runs the tests.

/// Whether the caller is root of the machine, and not only of a user namespace: there it can
/// neither become other users nor mount a tmpfs of a size that counts.
pub fn is_real_root() -> bool {
    let whole_range = std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    nix::unistd::geteuid().is_root() && whole_range
}
