//! The handles that a transaction on several states takes, and where they were had from.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::handles::Handles;
use crate::held_many::Member;
use crate::state::{PyState, raised_claim};

/// Where the handles of members were had from; none of those that are read alone.
pub(crate) type Lenders = Vec<Option<Arc<Handles>>>;

/// The states of a transaction to be, with handles of their own.
///
/// # Errors
///
/// `Closed`, and why there is no handle.
pub(crate) fn lend(states: &Bound<'_, PyTuple>) -> PyResult<(Vec<Member>, Lenders)> {
    let (mut members, mut lenders) = (Vec::new(), Lenders::new());
    for state in states {
        let state = state.cast_into::<PyState>()?;
        let state = state.borrow();
        let lent = state
            .open()
            .and_then(|open| match open.reader.access().is_write() {
                false => Ok((Member::Reading(Box::new(open.reader.clone())), None)),
                true => {
                    let handle = open.handles.lend().map_err(raised_claim)?;
                    Ok((Member::Writing(handle), Some(Arc::clone(&open.handles))))
                }
            });
        match lent {
            Ok((member, lender)) => {
                members.push(member);
                lenders.push(lender);
            }
            Err(error) => {
                give_back(members, &lenders);
                return Err(error);
            }
        }
    }
    Ok((members, lenders))
}

/// Gives handles back to where they were had from.
pub(crate) fn give_back(members: Vec<Member>, lenders: &Lenders) {
    for (member, lender) in members.into_iter().zip(lenders) {
        if let (Member::Writing(handle), Some(lender)) = (member, lender) {
            lender.give_back(handle);
        }
    }
}
