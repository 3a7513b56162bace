//! Entries measured in turn: round by round, in another order each time.

use std::time::Duration;

use crate::Result;
use crate::peers::Peer;
use crate::record::{Cell, Figures};
use crate::site::{Home, Site};
use crate::stage::{Length, Stage};
use crate::task::{Actor, Outcome, Task};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    pub(crate) length: Length,
    /// Wake-ups a round.
    pub(crate) turns: usize,
}

impl Extent {
    pub(crate) const FULL: Self = Self {
        rounds: 7,
        length: Length {
            warm: Duration::from_millis(6),
            measured: Duration::from_millis(30),
        },
        turns: 300,
    };

    /// Enough to see orders of magnitude.
    pub(crate) const SHORT: Self = Self {
        rounds: 3,
        length: Length {
            warm: Duration::from_millis(3),
            measured: Duration::from_millis(8),
        },
        turns: 60,
    };
}

/// So many rounds that fail, and a peer cannot do it; one that fails alone is left out.
const FAILURES: usize = 2;

/// What is measured of one peer.
pub(crate) struct Entry {
    pub(crate) case: String,
    pub(crate) peer: &'static dyn Peer,
    pub(crate) size: usize,
    /// How many values, for who handles several.
    pub(crate) count: usize,
    pub(crate) actors: Vec<Actor>,
    /// The value is made anew each round, zero at first.
    pub(crate) anew: bool,
}

impl Entry {
    pub(crate) fn new(
        case: impl Into<String>,
        peer: &'static dyn Peer,
        size: usize,
        actors: Vec<Actor>,
    ) -> Self {
        Self {
            case: case.into(),
            peer,
            size,
            count: 0,
            actors,
            anew: false,
        }
    }
}

/// All outcomes of an entry: a round each, an actor each.
pub(crate) type Rounds = Vec<Vec<Outcome>>;

/// Plays all entries, and makes a cell of each by `figures`.
pub(crate) fn measure(
    question: &str,
    stage: &mut Stage,
    extent: Extent,
    mut entries: Vec<Entry>,
    figures: impl Fn(&Entry, &Rounds) -> Figures,
) -> Result<Vec<Cell>> {
    let mut tracks: Vec<Track> = entries.iter().map(|_| Track::default()).collect();
    let mut order: Vec<usize> = (0..entries.len()).collect();
    for round in 0..extent.rounds {
        eprintln!(
            "{question}: round {} of {}, {} entries",
            round + 1,
            extent.rounds,
            entries.len()
        );
        fastrand::shuffle(&mut order);
        for index in &order {
            let (entry, track) = (&entries[*index], &mut tracks[*index]);
            if track.failures < FAILURES {
                match track.play(stage, entry, extent.length)? {
                    Ok(outcomes) => track.rounds.push(outcomes),
                    Err(why) => {
                        track.failures += 1;
                        track.cannot = Some(why);
                    }
                }
            }
        }
    }
    let cell = |(entry, track): (Entry, Track)| {
        let why = track.cannot.unwrap_or_default();
        let answer = match track.failures < FAILURES && !track.rounds.is_empty() {
            true => Some(figures(&entry, &track.rounds)).filter(|figures| figures.samples > 0),
            false => None,
        };
        let cannot = match why.is_empty() {
            true => "nothing was to be timed in any round".to_owned(),
            false => why,
        };
        Cell {
            question: question.to_owned(),
            case: entry.case.clone(),
            peer: entry.peer.id().to_owned(),
            cannot: answer.is_none().then_some(cannot),
            figures: answer,
            seen: None,
        }
    };
    Ok(entries.drain(..).zip(tracks).map(cell).collect())
}

/// What there is of an entry so far.
#[derive(Default)]
struct Track {
    rounds: Rounds,
    cannot: Option<String>,
    failures: usize,
    value: Option<(Site, Option<Home>)>,
}

impl Track {
    fn play(
        &mut self,
        stage: &mut Stage,
        entry: &Entry,
        length: Length,
    ) -> Result<std::result::Result<Vec<Outcome>, String>> {
        let kept = self.value.take().filter(|_| !entry.anew);
        let (site, home) = match kept {
            Some(value) => value,
            None => {
                let site = stage.site(entry.size, entry.count);
                match Stage::home(entry.peer, &site) {
                    Ok(home) => (site, home),
                    Err(why) => return Ok(Err(why)),
                }
            }
        };
        let played = stage.play(entry.peer, &site, &entry.actors, length);
        self.value = Some((site, home));
        played
    }
}

/// The samples of all actors that do what `which` says, round by round.
pub(crate) fn samples(entry: &Entry, rounds: &Rounds, which: fn(Task) -> bool) -> Vec<Vec<f32>> {
    let of_round = |outcomes: &Vec<Outcome>| {
        let chosen = outcomes.iter().zip(&entry.actors);
        let chosen = chosen.filter(|(_, actor)| which(actor.task));
        chosen
            .flat_map(|(outcome, _)| outcome.samples.iter().copied())
            .collect()
    };
    rounds.iter().map(of_round).collect()
}

/// A sum over all actors that do what `which` says, in all rounds.
pub(crate) fn total(
    entry: &Entry,
    rounds: &Rounds,
    which: fn(Task) -> bool,
    what: fn(&Outcome) -> f64,
) -> f64 {
    let all = rounds
        .iter()
        .flat_map(|outcomes| outcomes.iter().zip(&entry.actors));
    let chosen = all.filter(|(_, actor)| which(actor.task));
    chosen.map(|(outcome, _)| what(outcome)).sum()
}
