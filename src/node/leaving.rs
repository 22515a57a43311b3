//! Whether a node has been asked to leave its cluster for good, and how long that may take.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

/// Cheap to clone: all clones are of one node, which is asked once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaving {
    asked: CancellationToken,
    within: Arc<OnceLock<Duration>>,
}

impl Leaving {
    /// Asks the node to leave, within this time. Who asks first sets the time, or leaves it to the node.
    pub(crate) fn ask(&self, within: Option<Duration>) {
        if let Some(within) = within.filter(|_| !self.is_asked()) {
            // Where two ask at once, either was first.
            let _ = self.within.set(within);
        }
        self.asked.cancel();
    }

    /// Whether it was asked to.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.is_cancelled()
    }

    /// Waits until it is.
    pub(crate) async fn asked(&self) {
        self.asked.cancelled().await;
    }

    /// How long it may take, where somebody said so.
    pub(crate) fn within(&self) -> Option<Duration> {
        self.within.get().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_first_says_how_long_it_may_take() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let (leaving, open) = (Leaving::default(), Leaving::default());
        assert!(!leaving.is_asked());
        leaving.ask(seconds(5));
        leaving.ask(seconds(9));
        leaving.asked().await;
        assert_eq!((leaving.is_asked(), leaving.within()), (true, seconds(5)));
        open.ask(None);
        open.ask(seconds(9));
        assert_eq!(open.within(), None);
    }
}
