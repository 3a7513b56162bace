//! The ring over a real mapping shared by real processes, flat out and under attack, and as a
//! sequence beside a plain list of versions.

#![cfg(not(kstate_loom))]
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "ring/hostile.rs"]
mod hostile;
#[path = "ring/model.rs"]
mod model;
#[path = "ring/shared.rs"]
mod shared;
#[path = "ring/stress.rs"]
mod stress;
