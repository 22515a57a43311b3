//! Gives up what is missing from a partition, on an operator's word.

use super::router::Router;
use crate::{
    error::{Error, ErrorCode, Outcome},
    ids::PartitionId,
    machine::placement::{Partition, PartitionStatus, PlacementAnswer, PlacementBody, PlacementChange},
    node::gateway::Gateway,
};

/// How often it is tried on top of a placement that has changed meanwhile.
const TRIES: usize = 5;

/// Has the loss accepted.
pub(super) async fn accept_loss(router: &Router, gateway: &Gateway, partition: PartitionId) -> Result<(), Error> {
    router.partitions().await?;
    let Some(placed) = router.placed(partition) else { return Err(no_such_partition(partition)) };
    let mut based_on = placed.epoch;
    for _ in 0..TRIES {
        let change = PlacementChange { partition, based_on, body: PlacementBody::AcceptLoss };
        let request = gateway.begin();
        match gateway.change_placement(&request, change).await? {
            PlacementAnswer::Done(_) => return Ok(()),
            PlacementAnswer::Void(now) if is_served(&now) => {
                return Err(Error::new(
                    ErrorCode::Conflict,
                    format!("partition {partition} is served: nothing of it is lost that could be given up"),
                ));
            }
            PlacementAnswer::Void(now) => based_on = now.epoch,
            PlacementAnswer::NothingToAccept => {
                return Err(Error::new(
                    ErrorCode::Conflict,
                    format!(
                        "no node that kept partition {partition} has come back yet, so there is nobody to serve it: start at \
                         least one of them"
                    ),
                ));
            }
            PlacementAnswer::Awaited(node) => {
                return Err(Error::new(
                    ErrorCode::Conflict,
                    format!(
                        "{node} is up, may have all of partition {partition}, and has not said yet how far its journal goes: \
                         wait for it. If it cannot get at its journal, `syncmesh health --ready` says why there: mend that, \
                         or stop it to give up what it has"
                    ),
                ));
            }
            PlacementAnswer::NoSuchPartition => return Err(no_such_partition(partition)),
        }
    }
    Err(Error::unavailable(Outcome::NotApplied, format!("partition {partition} keeps changing: try again")))
}

fn is_served(placed: &Partition) -> bool {
    placed.status == PartitionStatus::Serving && placed.primary.is_some()
}

fn no_such_partition(partition: PartitionId) -> Error {
    Error::new(ErrorCode::NotFound, format!("there is no partition {partition}: `syncmesh status` lists them"))
}
