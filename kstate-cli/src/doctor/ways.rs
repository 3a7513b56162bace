//! Which of its ways kstate goes on a machine, from what was found there.

use std::io::{self, Write};

use kstate_sys::probe::{Feature, Report, Status};
use serde_json::{Map, Value, json};

use super::mounting::Mounting;

/// One decision: what is decided, which way, and what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    subject: &'static str,
    way: &'static str,
    meaning: &'static str,
}

/// All decisions.
#[derive(Debug)]
pub(super) struct Ways {
    can_mount: bool,
    ways: Vec<Way>,
}

impl Ways {
    /// Decides as the daemon and the library do.
    pub(super) fn of(report: &Report, is_root: bool) -> Self {
        let can = |feature| report.has(feature);
        // What is said to be likely counts: the daemon will try it.
        let may = |feature| report.get(feature).status != Status::Unavailable;
        let choose = |subject, ways: &[(bool, &'static str, &'static str)]| {
            let taken = ways.iter().find(|(possible, ..)| *possible);
            let (way, meaning) = taken.map_or(("none", ""), |(_, way, meaning)| (*way, *meaning));
            Way {
                subject,
                way,
                meaning,
            }
        };
        let passthrough = may(Feature::FusePassthrough) && can(Feature::SharedMemory);
        let possible = Mounting::ways(|feature| report.get(feature).status, is_root);
        let first = possible
            .first()
            .copied()
            .unwrap_or(Mounting::Impossible("no way is known"));
        let can_mount = !matches!(first, Mounting::Impossible(_));
        let mounting = Way {
            subject: "mounting",
            way: first.name(),
            meaning: first.meaning(),
        };
        let ways = vec![
            mounting,
            choose(
                "mapping",
                &[
                    (
                        passthrough,
                        "passthrough",
                        "mapping a state's file maps the daemon's own pages",
                    ),
                    (
                        can(Feature::MemfdSealing),
                        "memfd",
                        "the library gets the region's descriptor from the daemon's socket",
                    ),
                ],
            ),
            choose(
                "waiting",
                &[
                    (
                        can(Feature::FutexReadOnly),
                        "futex",
                        "a system call only while nothing changes",
                    ),
                    (true, "poll", "through the daemon, some 40 µs"),
                ],
            ),
            choose(
                "file polls",
                &[
                    (
                        can(Feature::IoUringFutex),
                        "io_uring",
                        "the daemon watches all polled states by one ring",
                    ),
                    (
                        can(Feature::FutexWaitv),
                        "futex_waitv",
                        "the daemon watches 127 polled states a thread",
                    ),
                    (
                        true,
                        "timer",
                        "the daemon looks at polled states every 5 ms",
                    ),
                ],
            ),
            choose(
                "deaths",
                &[(
                    can(Feature::PidfdOpen),
                    "pidfd",
                    "what a dead process held is free at once",
                )],
            ),
            choose(
                "first access",
                &[(
                    true,
                    "copied",
                    "a transaction's page is filled when first asked for; no trap is set",
                )],
            ),
            choose(
                "commit time",
                &[
                    (
                        can(Feature::InvariantCounter),
                        "counter",
                        "the time stamp counter, some 3 ns",
                    ),
                    (true, "clock", "the kernel's clock, 25 ns"),
                ],
            ),
        ];
        Self { can_mount, ways }
    }

    /// Whether a file system can be mounted by this user.
    pub(super) fn can_mount(&self) -> bool {
        self.can_mount
    }

    /// An object with a `way` and its `meaning` for each subject.
    pub(super) fn to_json(&self) -> Value {
        let entry = |way: &Way| {
            let key = way.subject.replace(' ', "_");
            (key, json!({"way": way.way, "meaning": way.meaning}))
        };
        Value::Object(self.ways.iter().map(entry).collect::<Map<_, _>>())
    }

    /// A line for each subject.
    pub(super) fn write(&self, mut output: impl Write) -> io::Result<()> {
        writeln!(output, "Which way kstate goes here:")?;
        for Way {
            subject,
            way,
            meaning,
        } in &self.ways
        {
            writeln!(output, "  {subject:<14} {way:<20} {meaning}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_has_a_way_and_root_mounts_directly() {
        let report = kstate_sys::probe::probe();
        let ways = Ways::of(&report, true);
        assert_eq!(ways.to_json().as_object().unwrap().len(), ways.ways.len());
        if report.has(Feature::CapSysAdmin) && ways.can_mount() {
            assert_eq!(ways.to_json()["mounting"]["way"], "direct");
        }
        let as_user = Ways::of(&report, false);
        assert_ne!(as_user.to_json()["mounting"]["way"], "direct");
    }
}
