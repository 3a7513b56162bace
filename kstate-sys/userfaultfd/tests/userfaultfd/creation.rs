//! Making a userfaultfd, and what is said when there is none to be had.

use crate::create;
use crate::mapping::{Mapping, page_bytes};
use std::os::fd::AsRawFd;
use std::thread;
use userfaultfd::{Errno, Error, FeatureFlags, IoctlFlags, UffdBuilder};

#[test]
fn kernel_reports_the_sigbus_feature() {
    let Some(uffd) = create("SIGBUS", FeatureFlags::SIGBUS) else {
        return;
    };
    assert!(uffd.features().contains(FeatureFlags::SIGBUS));
    assert_eq!(uffd.enabled_features(), FeatureFlags::SIGBUS);
    assert!(
        uffd.ioctls()
            .contains(IoctlFlags::API | IoctlFlags::REGISTER | IoctlFlags::UNREGISTER)
    );
}

#[test]
fn unknown_feature_is_named_with_what_is_offered() {
    let Some(uffd) = create("any userfaultfd", FeatureFlags::empty()) else {
        return;
    };
    let unknown = FeatureFlags::from_bits_retain(1 << 63);
    let wanted = unknown | FeatureFlags::SIGBUS;
    let error = UffdBuilder::new()
        .require_features(wanted)
        .create()
        .unwrap_err();
    assert_eq!(
        error,
        Error::UnsupportedFeatures {
            wanted,
            offered: uffd.features()
        }
    );
    assert!(error.to_string().contains("0x8000000000000000"), "{error}");
    assert!(
        !error.to_string().contains("features FeatureFlags(SIGBUS"),
        "{error}"
    );
}

#[test]
fn range_that_is_not_whole_pages_is_refused() {
    let Some(uffd) = create("any userfaultfd", FeatureFlags::empty()) else {
        return;
    };
    let memory = Mapping::new(2);
    let error = uffd.register(memory.page(0), page_bytes() + 1).unwrap_err();
    let call = "UFFDIO_REGISTER";
    assert_eq!(
        error,
        Error::SystemError {
            call,
            errno: Errno::EINVAL
        }
    );
}

#[test]
fn descriptor_closes_on_exec_unless_asked_not_to() {
    if create("any userfaultfd", FeatureFlags::empty()).is_none() {
        return;
    }
    for close_on_exec in [true, false] {
        let uffd = UffdBuilder::new()
            .close_on_exec(close_on_exec)
            .create()
            .unwrap();
        // SAFETY: F_GETFD takes no argument.
        let flags = unsafe { libc::fcntl(uffd.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags == libc::FD_CLOEXEC, close_on_exec);
    }
}

#[test]
fn refused_system_call_falls_back_to_the_device() {
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/userfaultfd");
    for errno in [Errno::EPERM, Errno::ENOSYS] {
        // A filter binds the thread that installs it, and ends with it.
        let made = thread::spawn(move || {
            refuse_the_system_call(errno);
            UffdBuilder::new().create()
        });
        match (made.join().unwrap(), &device) {
            (Ok(uffd), Ok(_)) => assert!(uffd.ioctls().contains(IoctlFlags::API)),
            (Err(error), Err(_)) => {
                assert_eq!(
                    error,
                    Error::Refused {
                        user_mode_only: true,
                        errno
                    }
                );
            }
            (made, device) => panic!("made {made:?}, device {device:?}"),
        }
    }
}

/// Lets userfaultfd(2) fail with `errno` in this thread from now on, as a container's filter does.
fn refuse_the_system_call(errno: Errno) {
    let number = u32::try_from(libc::SYS_userfaultfd).unwrap();
    let answer = libc::SECCOMP_RET_ERRNO | u32::try_from(errno as i32).unwrap();
    let instruction = |code: u32, jf, k| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: 0,
        jf,
        k,
    };
    let mut filter = [
        // The call's number is the first word of struct seccomp_data.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, number),
        instruction(libc::BPF_RET | libc::BPF_K, 0, answer),
        instruction(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the option takes plain numbers.
    let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(set, 0);
    // SAFETY: `program` and its four instructions are alive throughout.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}
