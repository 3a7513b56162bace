//! Transactions over several states.

use std::fmt::Write as _;

use super::{ANY, Act, Head, Reference, STATES, State, hex, shown, tell, value_of};
use crate::step;

#[derive(Clone, Debug, Default)]
pub(super) struct Several {
    members: Vec<Member>,
    pub(super) inherited: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Member {
    state: usize,
    reading: bool,
    base: Head,
    page: Option<Vec<u8>>,
    read: bool,
    dirty: bool,
    doomed: bool,
}

impl Reference {
    /// Writes what was added to be written, and reads the rest.
    pub(super) fn touch_all(&mut self, actor: usize, tx: u32, value: step::Value) -> Vec<Act> {
        let members = self.actor(actor).several[&tx].members.clone();
        let mut acts = Vec::new();
        for (index, member) in members.iter().enumerate() {
            // Its place, as `pick` counts.
            let pick =
                (1..).find(|pick| pick % members.len() == index && !pick.is_multiple_of(ANY));
            let pick = pick.expect("one of them is");
            let what = match member.reading {
                true => step::Several::Get(pick),
                false => step::Several::Write(pick, value),
            };
            let (line, expected) = self.several(actor, tx, &what);
            acts.push(tell(actor, line, &expected));
        }
        acts
    }

    pub(super) fn add(
        &mut self,
        actor: usize,
        tx: u32,
        state: usize,
        reading: bool,
    ) -> Option<Act> {
        let base = self.states[state].head;
        let several = self.actor(actor).several.get_mut(&tx).expect("it is open");
        if several.inherited {
            return None;
        }
        let verb = if reading { "add-reading" } else { "add" };
        let line = format!("{verb} {tx} {state}");
        if several.members.iter().any(|member| member.state == state) {
            return Some(tell(actor, line, "twice"));
        }
        several.members.push(Member {
            state,
            reading,
            base,
            page: None,
            read: false,
            dirty: false,
            doomed: false,
        });
        Some(tell(actor, line, "ok"))
    }

    pub(super) fn several(
        &mut self,
        actor: usize,
        tx: u32,
        what: &step::Several,
    ) -> (String, String) {
        let Self { states, actors, .. } = self;
        let open = actors[actor].as_mut().expect("it lives");
        let several = open.several.get_mut(&tx).expect("it is open");
        match what {
            step::Several::Get(pick) => {
                let state = several.pick(*pick);
                let answer = several.touch(states, state, false, |member, page| {
                    member.read = true;
                    hex(page)
                });
                (format!("m-get {tx} {state}"), answer)
            }
            step::Several::Write(pick, value) => {
                let state = several.pick(*pick);
                let value = value_of(state, *value);
                let line = format!("m-write {tx} {state} {}", hex(&value));
                let answer = several.touch(states, state, true, |member, page| {
                    member.dirty = true;
                    *page = value;
                    String::from("ok")
                });
                (line, answer)
            }
            step::Several::Set(pick, value) => {
                let state = several.pick(*pick);
                let value = value_of(state, *value);
                let line = format!("m-set {tx} {state} {}", hex(&value));
                let answer = match several.member(state, true) {
                    None => "not-added",
                    Some(member) => {
                        member.dirty = true;
                        member.page = Some(value);
                        "ok"
                    }
                };
                (line, String::from(answer))
            }
            step::Several::Ask => {
                let mut touched = several.members.iter().filter(|m| m.read || m.dirty);
                let valid = touched.all(|member| states[member.state].head == member.base);
                let doomed = several.members.iter().any(|member| member.doomed);
                (format!("m-ask {tx}"), format!("{valid} {doomed}"))
            }
            step::Several::Commit => {
                let several = open.several.remove(&tx).expect("it is open");
                (
                    format!("m-commit {tx}"),
                    self.commit_several(actor, &several),
                )
            }
            step::Several::Drop => {
                open.several.remove(&tx);
                (format!("drop {tx}"), String::from("ok"))
            }
        }
    }

    fn commit_several(&mut self, actor: usize, several: &Several) -> String {
        let mut dirty: Vec<&Member> = several.members.iter().filter(|m| m.dirty).collect();
        let order: Vec<usize> = dirty.iter().map(|member| member.state).collect();
        let mut read = several.members.iter().filter(|m| m.read && !m.dirty);
        let read: Vec<&Member> = read.by_ref().collect();
        if dirty.is_empty() {
            return String::from("unchanged");
        }
        if several.inherited {
            return String::from("forked");
        }
        // The states were made in this order.
        dirty.sort_by_key(|member| member.state);
        for member in &dirty {
            self.writer(actor, member.state);
        }
        let alone = dirty.len() == 1 && read.is_empty();
        let mut filled = Vec::new();
        for member in &dirty {
            let found = self.states[member.state].head;
            if found != member.base {
                return conflict(member, found);
            }
            // What was filled before a conflict is found further on is gone all the same.
            let writer = self.writer(actor, member.state);
            let value = member.page.as_deref().expect("it was written");
            filled.push(self.states[member.state].fill(writer, value));
        }
        for member in &read {
            let found = self.states[member.state].head;
            if !alone && found != member.base {
                return conflict(member, found);
            }
        }
        let mut generations = [0; STATES];
        for (member, slot) in dirty.iter().zip(filled) {
            let mut writer = self.writer(actor, member.state);
            generations[member.state] = self.states[member.state].swap(&mut writer, slot);
            self.actor(actor).writers[member.state] = Some(writer);
        }
        let mut answer = String::from("committed");
        for state in order {
            write!(answer, " {}", generations[state]).expect("a string takes it");
        }
        answer
    }
}

fn conflict(member: &Member, found: Head) -> String {
    let name = ["a", "b", "c"][member.state];
    let base = member.base.generation;
    format!("conflict {name} {base} {}", found.generation)
}

impl Several {
    /// One of its states, but sometimes any.
    fn pick(&self, number: usize) -> usize {
        match self.members.len() {
            members if members > 0 && !number.is_multiple_of(ANY) => {
                self.members[number % members].state
            }
            _ => number / ANY % STATES,
        }
    }

    fn member(&mut self, state: usize, writing: bool) -> Option<&mut Member> {
        let mut members = self.members.iter_mut();
        members.find(|member| member.state == state && !(writing && member.reading))
    }

    /// Fills the page of a state, if it was added, and does something with it.
    fn touch(
        &mut self,
        states: &[State; STATES],
        state: usize,
        writing: bool,
        then: impl FnOnce(&mut Member, &mut Vec<u8>) -> String,
    ) -> String {
        let inherited = self.inherited;
        let Some(member) = self.member(state, writing) else {
            return String::from("not-added");
        };
        let mut page = match member.page.take() {
            Some(page) => page,
            None if inherited => return String::from("forked"),
            None => {
                let (value, doomed) = shown(states, state, member.base);
                member.doomed |= doomed;
                value
            }
        };
        let answer = then(member, &mut page);
        member.page = Some(page);
        answer
    }
}
