//! What workers no longer need. Dropping it gives memory back to the system, which takes long: so neither they nor the clerk
//! do it, but a thread that stands back behind both.

use crate::cell::Cell;
use crate::limits::BESIDE_NICENESS;
use crate::processor;
use crate::view::View;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// What one worker let go of.
#[derive(Default)]
pub(crate) struct Remains {
    pub(crate) cells: Vec<Cell>,
    pub(crate) views: Vec<Arc<View>>,
}

impl Remains {
    pub(crate) fn is_empty(&self) -> bool {
        self.cells.is_empty() && self.views.is_empty()
    }
}

/// Drops what comes, until nobody is left who could send anything.
pub(crate) fn bury(remains: &Receiver<Remains>) {
    processor::stand_back(BESIDE_NICENESS);
    remains.iter().for_each(drop);
}
