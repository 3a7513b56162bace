//! Transactions on one state.

use super::{
    BYTES, CAPACITY, Head, NUMBER_BYTES, PAGE, Reference, SOFT, SOFTWARE, STATES, State, hex,
    shown, value_of,
};
use crate::step;

#[derive(Clone, Debug)]
pub(super) struct Single {
    pub(super) state: usize,
    pub(super) how: &'static str,
    base: Head,
    page: Option<Page>,
    dirty: bool,
    doomed: bool,
    length: Option<usize>,
    /// Begun by the process that this one was forked from.
    pub(super) inherited: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Page {
    bytes: Vec<u8>,
    /// The length of the version it was filled with.
    found: usize,
}

impl Single {
    fn is_raw(&self) -> bool {
        self.how != SOFT
    }

    pub(super) fn is_trapped(&self) -> bool {
        self.is_raw() && self.how != SOFTWARE
    }

    fn fill(&mut self, states: &[State; STATES]) {
        if self.page.is_some() {
            return;
        }
        let (value, doomed) = shown(states, self.state, self.base);
        self.doomed = doomed;
        self.page = Some(Page::new(value, self.is_raw()));
    }

    fn length(&self) -> usize {
        let found = self.page.as_ref().map_or(0, |page| page.found);
        self.length.unwrap_or(match (self.state, found) {
            (BYTES, 0) => CAPACITY,
            (BYTES, found) => found,
            _ => NUMBER_BYTES,
        })
    }

    /// Another length than the version's, if one was said, is a write.
    fn apply_length(&mut self, states: &[State; STATES]) {
        if let Some(length) = self.length {
            self.fill(states);
            let found = self.page.as_ref().map_or(0, |page| page.found);
            self.dirty |= found != length;
        }
    }

    /// What it shows, and would commit.
    fn value(&self) -> Vec<u8> {
        let bytes = self.page.as_ref().map_or(&[][..], |page| &page.bytes);
        match self.is_raw() {
            true => bytes[..self.length()].to_owned(),
            false => bytes.to_owned(),
        }
    }

    fn write(&mut self, value: &[u8]) {
        self.dirty = true;
        let raw = self.is_raw();
        match &mut self.page {
            Some(page) if raw => page.bytes[..value.len()].copy_from_slice(value),
            page => *page = Some(Page::new(value.to_owned(), false)),
        }
    }
}

impl Page {
    fn new(value: Vec<u8>, raw: bool) -> Self {
        let found = value.len();
        let mut bytes = value;
        if raw {
            bytes.resize(PAGE, 0);
        }
        Self { bytes, found }
    }
}

impl Reference {
    pub(super) fn begin(&mut self, actor: usize, tx: u32, state: usize, how: &'static str) -> u64 {
        let base = self.states[state].head;
        let mut single = Single {
            state,
            how,
            base,
            page: None,
            dirty: false,
            doomed: false,
            length: None,
            inherited: false,
        };
        if single.is_trapped() {
            let spares = &mut self.actor(actor).spares[state];
            // Pages that are trapped another way are no use any more.
            while let Some(spare) = spares.pop() {
                if spare.how == how {
                    let held = spare.holds.filter(|(head, _)| *head == base);
                    single.page = held.map(|(_, value)| Page::new(value, true));
                    break;
                }
            }
        }
        self.actor(actor).singles.insert(tx, single);
        base.generation
    }

    pub(super) fn single(
        &mut self,
        actor: usize,
        tx: u32,
        what: &step::Single,
    ) -> Option<(String, String)> {
        let Self { states, actors, .. } = self;
        let open = actors[actor].as_mut().expect("it lives");
        let single = open.singles.get_mut(&tx).expect("it is open");
        let ok = String::from("ok");
        let forked = String::from("forked");
        // A parent's raw page is not there, and software need not notice: it is asked for by call.
        let refused = single.inherited && (single.is_raw() || single.page.is_none());
        Some(match what {
            step::Single::Get if !(single.inherited && single.is_raw()) => {
                let line = format!("get {tx}");
                if refused {
                    return Some((line, forked));
                }
                single.fill(states);
                (line, hex(&single.value()))
            }
            step::Single::Get | step::Single::Slice => {
                let line = format!("slice {tx}");
                if refused {
                    return Some((line, forked));
                }
                single.fill(states);
                (line, hex(&single.value()))
            }
            step::Single::Write(value) if !(single.inherited && single.is_raw()) => {
                let value = value_of(single.state, *value);
                let line = format!("write {tx} {}", hex(&value));
                if refused {
                    return Some((line, forked));
                }
                // Writing nothing touches nothing.
                if !value.is_empty() || !single.is_trapped() {
                    single.fill(states);
                    single.write(&value);
                }
                (line, ok)
            }
            step::Single::Write(value) | step::Single::Set(value) => {
                let value = value_of(single.state, *value);
                let line = format!("set {tx} {}", hex(&value));
                if single.inherited && single.is_raw() {
                    return Some((line, forked));
                }
                if single.is_raw() {
                    single.fill(states);
                }
                single.write(&value);
                (line, ok)
            }
            step::Single::TouchMut => {
                let line = format!("touch-mut {tx}");
                if refused {
                    return Some((line, forked));
                }
                single.fill(states);
                single.dirty = true;
                (line, ok)
            }
            step::Single::Length(length) => {
                if !single.is_raw() || single.state != BYTES {
                    return None;
                }
                single.length = Some(*length);
                (format!("length {tx} {length}"), ok)
            }
            step::Single::Ask => {
                if single.inherited {
                    return None;
                }
                let valid = states[single.state].head == single.base;
                let base = single.base.generation;
                let told = format!("{base} {valid} {} {}", single.doomed, single.dirty);
                (format!("ask {tx}"), told)
            }
            step::Single::Commit => {
                let mut single = open.singles.remove(&tx).expect("it is open");
                if !single.inherited {
                    single.apply_length(states);
                }
                (format!("commit {tx}"), self.commit(actor, &single))
            }
            step::Single::Drop => {
                let single = open.singles.remove(&tx).expect("it is open");
                open.end(&single, None);
                (format!("drop {tx}"), ok)
            }
        })
    }

    fn commit(&mut self, actor: usize, single: &Single) -> String {
        if single.inherited {
            return String::from("forked");
        }
        let unchanged = format!("unchanged {}", single.base.generation);
        if !single.dirty {
            let unwritten = single.page.is_some() && !single.doomed;
            let holds = unwritten.then(|| {
                let page = single.page.as_ref().expect("just seen");
                (single.base, page.bytes[..page.found].to_owned())
            });
            self.actor(actor).end(single, holds);
            return unchanged;
        }
        let value = single.value();
        let answer = self.commit_value(actor, single.state, single.base, &value);
        let head = self.states[single.state].head;
        let holds = answer.starts_with("committed").then_some((head, value));
        self.actor(actor).end(single, holds);
        answer
    }

    pub(super) fn commit_value(
        &mut self,
        actor: usize,
        state: usize,
        base: Head,
        value: &[u8],
    ) -> String {
        let mut writer = self.writer(actor, state);
        if value.len() > CAPACITY {
            return String::from("too-long");
        }
        let state_now = &mut self.states[state];
        let found = state_now.head;
        if found != base {
            return format!("conflict {} {}", base.generation, found.generation);
        }
        let slot = state_now.fill(writer, value);
        let generation = state_now.swap(&mut writer, slot);
        self.actor(actor).writers[state] = Some(writer);
        format!("committed {generation}")
    }
}
