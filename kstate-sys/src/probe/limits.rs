//! The machine and its limits: kernel, pages, counter, descriptors, mappings, seccomp.

#![expect(
    unsafe_code,
    reason = "getrlimit has no wrapper among nix's features in use"
)]

use super::pages::page_bytes;
use super::{Capability, Feature, Status};
use nix::errno::Errno;

const OLDEST_KERNEL: (u32, u32) = (5, 15);
/// One descriptor a subscribed state, and some for the program.
const DESCRIPTORS_WANTED: u64 = 10_240;
/// A few mappings for each of ten thousand states, and some for the program.
const MAPPINGS_WANTED: u64 = 40_960;

/// The kernel's release: its text, and major and minor where the text begins with them.
pub(super) fn release() -> (String, Option<(u32, u32)>) {
    let text = match nix::sys::utsname::uname() {
        Ok(name) => name.release().to_string_lossy().into_owned(),
        Err(errno) => return (format!("of unknown release ({errno})"), None),
    };
    let numbers = parse_release(&text);
    (text, numbers)
}

fn parse_release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

pub(super) fn kernel_release() -> Capability {
    let feature = Feature::KernelRelease;
    let (text, numbers) = release();
    match numbers {
        Some(numbers) if numbers >= OLDEST_KERNEL => Capability::available(
            feature,
            format!("Linux {text}"),
            "what it can do is in the lines that follow",
        ),
        Some(_) => Capability::unavailable(
            feature,
            format!("Linux {text}; kstate is made for 5.15 and later"),
            "what the other lines call available works; the rest has no fallback",
            "use a kernel of 5.15 or later",
        ),
        None => Capability::new(
            feature,
            Status::Unknown,
            format!("Linux {text}"),
            "what it can do is in the lines that follow",
            None,
        ),
    }
}

pub(super) fn page_size() -> Capability {
    let feature = Feature::PageSize;
    let detail = format!("{} bytes", page_bytes());
    match page_bytes() {
        4096 | 16384 => {
            Capability::available(feature, detail, "a state holds up to one page of that size")
        }
        _ => Capability::new(
            feature,
            Status::Unknown,
            detail,
            "a state holds up to one page of that size; only 4096 and 16384 are tested",
            None,
        ),
    }
}

pub(super) fn invariant_counter() -> Capability {
    let feature = Feature::InvariantCounter;
    let kernels_clock =
        read_line("/sys/devices/system/clocksource/clocksource0/current_clocksource")
            .unwrap_or_else(|| "unknown".into());
    let (invariant, counter) = counter();
    let detail = format!("{counter}; the kernel's own clock source is {kernels_clock}");
    if invariant {
        Capability::available(
            feature,
            detail,
            "commit times come from the counter, in 10 ns",
        )
    } else {
        Capability::unavailable(
            feature,
            detail,
            "commit times come from the coarse clock, with the resolution of a timer tick",
            "let the hypervisor pass an invariant time stamp counter through",
        )
    }
}

#[cfg(target_arch = "x86_64")]
fn counter() -> (bool, &'static str) {
    use std::arch::x86_64::__cpuid;
    // Leaf 0x8000_0007, EDX bit 8: the rate is the same in all power states (Intel's manual 3B,
    // "Time-Stamp Counter").
    let invariant =
        __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & 1 << 8 != 0;
    if !invariant {
        return (
            false,
            "the processor does not call its time stamp counter invariant",
        );
    }
    let mut mode: libc::c_int = 0;
    // SAFETY: the option writes one int, which is alive.
    let asked = unsafe { libc::prctl(libc::PR_GET_TSC, &raw mut mode) };
    if asked == 0 && mode == libc::PR_TSC_SIGSEGV {
        return (
            false,
            "reading the time stamp counter is forbidden to this thread (PR_SET_TSC)",
        );
    }
    (true, "the time stamp counter is invariant")
}

#[cfg(target_arch = "aarch64")]
fn counter() -> (bool, &'static str) {
    (
        true,
        "the generic timer has a constant rate by its architecture",
    )
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn counter() -> (bool, &'static str) {
    (false, "no counter is known on this architecture")
}

pub(super) fn open_files() -> Capability {
    let feature = Feature::OpenFiles;
    let without = "programs with many states run out of descriptors";
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is alive and writable.
    let answer = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if let Err(errno) = Errno::result(answer) {
        let detail = format!("getrlimit: {errno}");
        return Capability::new(feature, Status::Unknown, detail, without, None);
    }
    let detail = format!(
        "RLIMIT_NOFILE: {} of at most {}",
        limit.rlim_cur, limit.rlim_max
    );
    if limit.rlim_cur >= DESCRIPTORS_WANTED {
        Capability::available(feature, detail, "ten thousand states fit into one process")
    } else if limit.rlim_max >= DESCRIPTORS_WANTED {
        Capability::available(
            feature,
            detail,
            "ten thousand states fit into one process, once it raises its own limit",
        )
    } else {
        Capability::unavailable(
            feature,
            detail,
            without,
            "raise LimitNOFILE= of the service, or `nofile` in limits.conf",
        )
    }
}

pub(super) fn map_count() -> Capability {
    let feature = Feature::MapCount;
    let without = "programs with many states run out of mappings (ENOMEM)";
    let count = read_line("/proc/sys/vm/max_map_count").and_then(|line| line.parse::<u64>().ok());
    match count {
        None => Capability::new(
            feature,
            Status::Unknown,
            "/proc/sys/vm/max_map_count cannot be read",
            without,
            None,
        ),
        Some(count) if count >= MAPPINGS_WANTED => Capability::available(
            feature,
            format!("vm.max_map_count: {count}"),
            "ten thousand states fit into one process",
        ),
        Some(count) => Capability::unavailable(
            feature,
            format!("vm.max_map_count: {count}"),
            without,
            "sysctl vm.max_map_count=65530 or more",
        ),
    }
}

pub(super) fn seccomp() -> Capability {
    let feature = Feature::SeccompUnfiltered;
    let with = "a call that the filter refuses shows above as unavailable";
    match seccomp_mode() {
        Some(0) => Capability::available(feature, "no seccomp filter", "nothing is refused here"),
        Some(mode) => Capability::unavailable(
            feature,
            format!("seccomp mode {mode}"),
            with,
            "if the container's filter refuses what you need, start it with another \
             (`--security-opt seccomp=...`)",
        ),
        None => Capability::new(
            feature,
            Status::Unknown,
            "/proc/thread-self/status has no Seccomp",
            with,
            Some("mount /proc"),
        ),
    }
}

/// This thread's seccomp mode: 0 none, 1 strict, 2 filter.
pub(super) fn seccomp_mode() -> Option<u8> {
    status_field("Seccomp")?.parse().ok()
}

/// A field of this thread's status. Of the thread's, because seccomp and capabilities are a
/// thread's and `/proc/self` shows those of the first.
pub(super) fn status_field(name: &str) -> Option<String> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    status.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        (field == name).then(|| value.trim().to_owned())
    })
}

fn read_line(path: &str) -> Option<String> {
    std::fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_from_their_beginning() {
        assert_eq!(parse_release("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(parse_release("5.15.0-1084-azure"), Some((5, 15)));
        assert_eq!(parse_release("6.9-rc1"), Some((6, 9)));
        assert_eq!(parse_release("of unknown release"), None);
        assert_eq!(parse_release(""), None);
        assert!((6, 10) > (6, 9));
    }
}
