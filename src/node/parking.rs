//! How whoever serves a question says that its answer has to wait for somebody else.

use std::sync::Arc;

use tokio::sync::Notify;

/// Told once a question waits for what others will do. The exchange that brought it is then answered without it: it is not
/// to be held back for an answer that will not come soon, with all that follows in line behind it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parking(Arc<Notify>);

impl Parking {
    /// The question waits from here on.
    pub(crate) fn park(&self) {
        self.0.notify_one();
    }

    /// Resolves once it does.
    pub(crate) async fn parked(&self) {
        self.0.notified().await;
    }
}
