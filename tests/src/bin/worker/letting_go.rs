//! Ways to let go of a handle's descriptor, or to pass it on.

use std::io::{IoSlice, stdin};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use kstate::{PublishError, ReadError, State};
use kstate_tests::{Checked, checked, number_of};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::{Result, say};

fn at_a_line() -> Result {
    stdin().read_line(&mut String::new())?;
    Ok(())
}

pub(super) fn into_another(state: &State<Checked>, inherit: bool) -> Result {
    state.publish(&checked(1))?;
    if inherit {
        fcntl(state.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    say("ready")?;
    at_a_line()?;
    let mut program = Command::new("sh");
    program.args(["-c", "echo another; read -r line"]);
    Err(program.exec().into())
}

pub(super) fn send(state: &State<Checked>, socket: &Path) -> Result {
    state.publish(&checked(1))?;
    let there = UnixStream::connect(socket)?;
    let descriptors = [state.as_fd().as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let byte = [IoSlice::new(b"-")];
    let none = MsgFlags::empty();
    sendmsg::<()>(there.as_raw_fd(), &byte, &rights, none, None)?;
    Ok(())
}

pub(super) fn map_only(state: &State<Checked>) -> Result {
    let live = state.live()?;
    state.publish(&checked(1))?;
    let null = std::fs::File::open("/dev/null")?;
    let own = state.as_fd().as_raw_fd();
    #[expect(unsafe_code, reason = "puts another file in the place of the handle's")]
    // SAFETY: takes two integers; the handle's descriptor stays one that it can close.
    let replaced = unsafe { libc::dup2(null.as_raw_fd(), own) };
    if replaced != own {
        return Err(std::io::Error::last_os_error().into());
    }
    say("ready")?;
    at_a_line()?;
    // What lies at the live pointer stays; everything else says that the state has gone.
    let value = live.load().and_then(|(_, value)| number_of(&value));
    let (read, published) = (state.snapshot().map(drop), state.publish(&checked(2)));
    match (read, published) {
        (Err(ReadError::Deleted { .. }), Err(PublishError::Deleted { .. })) => {
            say(&format!("{value:?} deleted"))
        }
        other => say(&format!("{value:?} {other:?}")),
    }
}
