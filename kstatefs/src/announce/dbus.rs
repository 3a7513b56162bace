//! Announcing on D-Bus, by signals.

use std::time::Duration;

use kstate_sys::announce::Record;
use kstate_sys::name::StateName;
use zbus::blocking::Connection;
use zbus::blocking::connection::Builder;

use super::outlet::Sink;
use super::sink::{Cause, Refused};
use crate::config::{Bus, BusKind};

/// Whose signals they are.
const PATH: &str = "/org/kstate";
const INTERFACE: &str = "org.kstate.State";
const MEMBER: &str = "Committed";

/// How long a bus may take to answer who connects to it. A signal may take longer, as it
/// has no answer.
const LONGEST_GREETING: Duration = Duration::from_secs(2);

/// A bus, connected to once there was something to send.
#[derive(Debug)]
pub(super) struct Dbus {
    bus: Bus,
    connection: Option<Connection>,
}

impl Dbus {
    pub(super) fn new(bus: Bus) -> Self {
        Self {
            bus,
            connection: None,
        }
    }
}

impl Sink for Dbus {
    fn send(&mut self, name: &StateName, record: &Record) -> Result<(), Refused> {
        // Taken out: after a failure another one is made.
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.bus).map_err(|error| refused(error, Cause::Absent))?,
        };
        let body = (
            name.as_str(),
            record.generation,
            record.length,
            record.time_ns,
            record.pid,
        );
        connection
            .emit_signal(None::<&str>, PATH, INTERFACE, MEMBER, &body)
            .map_err(|error| refused(error, Cause::Failed))?;
        self.connection = Some(connection);
        Ok(())
    }
}

fn connect(bus: &Bus) -> zbus::Result<Connection> {
    let builder = match bus.kind() {
        BusKind::Session => Builder::session()?,
        BusKind::System => Builder::system()?,
        BusKind::Address(address) => Builder::address(address.as_str())?,
    };
    builder.method_timeout(LONGEST_GREETING).build()
}

fn refused(error: zbus::Error, cause: Cause) -> Refused {
    Refused {
        cause,
        error: error.into(),
    }
}
