//! Arming the live page.

use kstate_sys::region::{self, Group, LiveOwner, Memory, Notice};

use super::State;
use crate::errno::Errno;
use crate::ledger::Event;

impl State {
    /// Lets committers keep the live page fresh from now on.
    pub(crate) fn arm(&self) -> Result<(), Errno> {
        let mut inner = self.lock();
        if inner.armed {
            return Ok(());
        }
        self.file.allocate(0, self.geometry.page() as usize)?;
        self.map_reach(&mut inner)?;
        self.note(&inner, Event::Armed(self.ino))?;
        inner.armed = true;
        let mapping = self.mapping();
        let mapped = mapping.mapped();
        mapped.header().raise(Notice::ARMED);
        let daemon = LiveOwner::of(Group::DAEMON);
        match self.last.get() {
            None => region::refresh_live(&mapped, daemon)?,
            // Sealed: nobody refreshes the page any more, and it stays as it is shown here.
            Some(last) => {
                let (_, bytes) = self.read_version(&mut inner)?;
                let _ = region::show_live(&mapped, daemon, *last, &bytes);
            }
        }
        Ok(())
    }
}
