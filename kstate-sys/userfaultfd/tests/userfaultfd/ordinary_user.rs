//! All of it again without privileges.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

const NOBODY: u32 = 65534;

#[test]
fn everything_works_as_an_ordinary_user() {
    // SAFETY: geteuid takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    writeln!(std::io::stdout(), "tested as user {user}").unwrap();
    if user != 0 {
        // Then so did every other test of this file.
        return;
    }
    // Not fork and setuid alone: that makes a process undumpable and hides its own pagemap from it.
    // The link is followed by the kernel, so the user needs no way through the directories above.
    let child = Command::new("/proc/self/exe")
        .uid(NOBODY)
        .gid(NOBODY)
        .stderr(Stdio::inherit())
        .output();
    let child = match child {
        // Root of a namespace that has no other user: an ordinary user itself, and so was every
        // other test.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
        child => child.unwrap(),
    };
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "as user {NOBODY}:\n{said}");
    assert!(said.contains(&format!("tested as user {NOBODY}")), "{said}");
    for test in [
        "kernel_reports_the_sigbus_feature",
        "missing_page_is_filled_by_a_handler_thread",
        "asynchronous_write_protection_finds_exactly_the_written_page",
    ] {
        assert!(said.contains(test), "{test} did not run:\n{said}");
    }
}
