//! FUSE: the device, who may mount, and whether passthrough is to be expected.

#![expect(unsafe_code, reason = "a trial mount in a child's own namespaces")]

use super::child::{End, Word, in_child, last_errno};
use super::limits::{release, status_field};
use super::{Capability, Feature, Status};
use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::ptr::null;

const NO_MOUNT: &str = "nothing can be mounted here: no daemon, no states";

fn open_device() -> std::io::Result<File> {
    File::options().read(true).write(true).open("/dev/fuse")
}

pub(super) fn device() -> Capability {
    let feature = Feature::FuseDevice;
    match open_device() {
        Ok(_) => Capability::available(
            feature,
            "/dev/fuse opens for reading and writing",
            "the daemon serves states as files",
        ),
        Err(error) => Capability::unavailable(
            feature,
            format!("/dev/fuse: {error}"),
            NO_MOUNT,
            device_advice(&error),
        ),
    }
}

fn device_advice(error: &std::io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EACCES) => {
            "as root: chmod 0666 /dev/fuse; for good, an udev rule: KERNEL==\"fuse\", MODE=\"0666\""
        }
        _ => "load the kernel module `fuse`; start a container with `--device /dev/fuse`",
    }
}

pub(super) fn fusermount() -> Capability {
    let feature = Feature::Fusermount;
    let without = "only root, or a user namespace, can mount";
    let Some(path) = find_program("fusermount3") else {
        let detail = "fusermount3 is not in PATH, /usr/bin or /bin";
        return Capability::unavailable(feature, detail, without, "install the package `fuse3`");
    };
    let shown = path.display();
    let set_uid_root = path
        .metadata()
        .is_ok_and(|file| file.mode() & libc::S_ISUID != 0 && file.uid() == 0);
    if !set_uid_root {
        return Capability::unavailable(
            feature,
            format!("{shown} is not set-user-id root"),
            without,
            "reinstall the package `fuse3`, or `chmod u+s` the program as root",
        );
    }
    if status_field("NoNewPrivs").as_deref() == Some("1") {
        return Capability::unavailable(
            feature,
            format!("{shown} is set-user-id root, but this process may gain no privileges"),
            without,
            "start without no_new_privs (systemd: NoNewPrivileges=no)",
        );
    }
    Capability::available(
        feature,
        format!("{shown}, set-user-id root"),
        "an ordinary user can mount; without passthrough, so over memfd",
    )
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/bin"), PathBuf::from("/bin")])
        .map(|directory| directory.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// What the child in [`user_namespaces`] does, in order; its word names the step that failed.
const STEPS: [&str; 5] = [
    "unshare(CLONE_NEWUSER | CLONE_NEWNS)",
    "writing uid_map and gid_map",
    "mount(MS_PRIVATE) in it",
    "opening /dev/fuse in it",
    "mounting FUSE in it",
];
/// The word after the last step, or after all that can be done without a device.
const MOUNTED: u8 = 5;
const WITHOUT_DEVICE: u8 = 6;

pub(super) fn user_namespaces() -> Capability {
    let feature = Feature::UserNamespaces;
    let without = "an ordinary user mounts through fusermount3 or not at all";
    // The child opens the device again: FUSE is mounted only with a descriptor opened in the same
    // user namespace (kernel fs/fuse/inode.c, fuse_fill_super: EINVAL otherwise). This one reserves
    // the number, so that the options can be written before there is a child.
    let device = open_device().ok().and_then(|device| {
        let fd = device.as_raw_fd();
        let options = CString::new(format!("fd={fd},rootmode=40000,user_id=0,group_id=0"));
        Some((device, options.ok()?))
    });
    let trial = device
        .as_ref()
        .map(|(device, options)| (device.as_raw_fd(), options.as_c_str()));
    // SAFETY: geteuid takes nothing and cannot fail.
    let uid = unsafe { libc::geteuid() };
    // SAFETY: getegid takes nothing and cannot fail.
    let gid = unsafe { libc::getegid() };
    let (uid_map, gid_map) = (format!("0 {uid} 1"), format!("0 {gid} 1"));
    let attempt = || mount_in_namespace(&uid_map, &gid_map, trial);
    // SAFETY: `mount_in_namespace` keeps in_child's contract; what it borrows was made before.
    match unsafe { in_child(attempt) } {
        End::Said(Word { step: MOUNTED, .. }) => Capability::available(
            feature,
            "mounted FUSE in a user namespace of a child",
            "an ordinary user can mount in a namespace; without passthrough, so over memfd",
        ),
        End::Said(Word {
            step: WITHOUT_DEVICE,
            ..
        }) => Capability::new(
            feature,
            Status::Unknown,
            "a user namespace can be made; mounting was not tried, since /dev/fuse does not open",
            without,
            Some("make /dev/fuse available first"),
        ),
        End::Said(Word { step, errno }) => Capability::unavailable(
            feature,
            format!(
                "{}: {}",
                STEPS.get(usize::from(step)).unwrap_or(&"an unknown step"),
                Errno::from_raw(i32::from(errno))
            ),
            without,
            "raise user.max_user_namespaces; on Ubuntu allow it in AppArmor; or let the \
             container's seccomp filter pass unshare(2) and mount(2)",
        ),
        end => Capability::new(
            feature,
            Status::Unknown,
            format!("the child that was to try it did not finish: {end:?}"),
            without,
            None,
        ),
    }
}

/// Mounts FUSE over the root of fresh namespaces, which end with this process. System calls only.
///
/// The kernel asks the new file system nothing before the mount returns: FUSE_INIT is queued, and
/// the connection is aborted when the child's namespace is torn down.
fn mount_in_namespace(uid_map: &str, gid_map: &str, trial: Option<(RawFd, &CStr)>) -> Word {
    let stopped_at = |step| Word {
        step,
        errno: last_errno(),
    };
    // SAFETY: takes flags by value.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) } != 0 {
        return stopped_at(0);
    }
    // Since Linux 3.19 a group map needs setgroups denied first (user_namespaces(7)).
    let mapped = write_file(c"/proc/self/setgroups", "deny")
        && write_file(c"/proc/self/uid_map", uid_map)
        && write_file(c"/proc/self/gid_map", gid_map);
    if !mapped {
        return stopped_at(1);
    }
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the path is a C string; the other pointers may be null for a change of propagation.
    if unsafe { libc::mount(null(), c"/".as_ptr(), null(), flags, null()) } != 0 {
        return stopped_at(2);
    }
    let Some((number, options)) = trial else {
        return stopped_at(WITHOUT_DEVICE);
    };
    // SAFETY: the path is a C string.
    let device = unsafe { libc::open(c"/dev/fuse".as_ptr(), libc::O_RDWR) };
    // SAFETY: takes plain numbers; `number` is the parent's device, of which this is a copy.
    if device < 0 || unsafe { libc::dup2(device, number) } < 0 {
        return stopped_at(3);
    }
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let (source, kind) = (c"kstate-probe".as_ptr(), c"fuse".as_ptr());
    let options = options.as_ptr().cast();
    // SAFETY: all four are C strings, alive throughout.
    if unsafe { libc::mount(source, c"/".as_ptr(), kind, flags, options) } != 0 {
        return stopped_at(4);
    }
    stopped_at(MOUNTED)
}

/// Writes a whole small file, by system calls only; errno tells why it failed.
fn write_file(path: &CStr, text: &str) -> bool {
    // SAFETY: the path is a C string.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    if fd < 0 {
        return false;
    }
    // SAFETY: `text` is alive for its length. The descriptor ends with the child.
    let written = unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) };
    usize::try_from(written).is_ok_and(|written| written == text.len())
}

pub(super) fn cap_sys_admin() -> Capability {
    let feature = Feature::CapSysAdmin;
    let without = "passthrough is out of reach: regions are memfds handed over a socket";
    match (effective_cap_sys_admin(), in_first_user_namespace()) {
        (Some(true), true) => Capability::available(
            feature,
            "effective, in the first user namespace",
            "this process may mount, and use passthrough where the kernel has it",
        ),
        (Some(true), false) => Capability::unavailable(
            feature,
            "effective, but in a user namespace only",
            without,
            "start the daemon outside of the user namespace",
        ),
        (Some(false), _) => Capability::unavailable(
            feature,
            "not among the effective capabilities (/proc/thread-self/status)",
            without,
            "start the daemon as root, by its systemd unit, or with `--cap-add SYS_ADMIN`",
        ),
        (None, _) => Capability::new(
            feature,
            Status::Unknown,
            "/proc/thread-self/status has no CapEff",
            without,
            Some("mount /proc"),
        ),
    }
}

pub(super) fn passthrough() -> Capability {
    let feature = Feature::FusePassthrough;
    let without = "regions are memfds handed over a socket; the protocol is the same";
    let privileged = effective_cap_sys_admin() == Some(true) && in_first_user_namespace();
    let (text, numbers) = release();
    if !privileged {
        return Capability::unavailable(
            feature,
            format!("needs CAP_SYS_ADMIN in the first user namespace (Linux {text})"),
            without,
            "start the daemon with CAP_SYS_ADMIN",
        );
    }
    if let Err(error) = open_device() {
        let detail = format!("/dev/fuse: {error}");
        return Capability::unavailable(feature, detail, without, device_advice(&error));
    }
    if numbers.is_none_or(|numbers| numbers < (6, 9)) {
        return Capability::unavailable(
            feature,
            format!("Linux {text}; passthrough came with 6.9"),
            without,
            "use a kernel of 6.9 or later",
        );
    }
    // Only a daemon that has a connection can try it for good: INIT offers passthrough even to
    // those whose FUSE_DEV_IOC_BACKING_OPEN then fails with EPERM.
    Capability::new(
        feature,
        Status::Unknown,
        format!("likely: Linux {text}, CAP_SYS_ADMIN in the first user namespace, /dev/fuse opens"),
        "the daemon tries it when it starts, and says which way it went",
        None,
    )
}

fn effective_cap_sys_admin() -> Option<bool> {
    const CAP_SYS_ADMIN: u32 = 21;
    let effective = u64::from_str_radix(&status_field("CapEff")?, 16).ok()?;
    Some(effective >> CAP_SYS_ADMIN & 1 == 1)
}

fn in_first_user_namespace() -> bool {
    // The kernel numbers the first one so for good (include/linux/proc_ns.h, PROC_USER_INIT_INO).
    std::fs::read_link("/proc/thread-self/ns/user")
        .is_ok_and(|link| link.as_os_str() == "user:[4026531837]")
}
