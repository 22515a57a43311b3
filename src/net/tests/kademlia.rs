//! Peers and topics that are found through others. Members alone take part.

use super::*;

const TOPIC: &str = "/test/role/printer";

/// Says it for as long as it takes: a query is lost, or comes before its answer is there.
async fn seek_until<T>(node: &Arc<dyn Mesh>, what: &str, done: impl Future<Output = T>) -> T {
    let repeat = async {
        loop {
            node.seek(TOPIC.to_owned());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = repeat => unreachable!("it repeats for ever"),
        done = soon(what, done) => done,
    }
}

#[tokio::test]
async fn a_member_without_a_known_address_is_found_through_kademlia() {
    let middle = TestNode::start(settings()).await;
    let far = TestNode::joining(&middle).await;
    let mut seeker = TestNode::joining(&middle).await;
    seeker.up(middle.id()).await;
    let here = (middle.id(), vec![middle.addr()]);
    middle.mesh.set_members(BTreeMap::from([here.clone(), (far.id(), vec![far.addr()])]));
    seeker.mesh.set_members(BTreeMap::from([here, (far.id(), Vec::new())]));
    seeker.up(far.id()).await;
}

#[tokio::test]
async fn a_peer_that_was_called_without_a_known_address_is_looked_for() {
    let middle = TestNode::start(settings()).await;
    let far = TestNode::joining(&middle).await;
    let mut seeker = TestNode::joining(&middle).await;
    seeker.up(middle.id()).await;
    middle.mesh.set_members(members(&[&middle, &far]));
    let far_id = far.id();
    let _far = far.echoing();
    soon("an answer of somebody whom nobody has introduced", async {
        while ask(&seeker.mesh, far_id, "who are you?").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(seeker.mesh.status().borrow().peers[&far_id].discovered_by, DiscoveredBy::Kademlia);
}

#[tokio::test]
async fn who_offers_a_topic_is_found_by_one_who_knows_no_members() {
    let middle = TestNode::start(settings()).await;
    let far = TestNode::joining(&middle).await;
    let mut seeker = TestNode::joining(&middle).await;
    let far_id = far.id();
    seeker.up(middle.id()).await;
    far.mesh.offer(BTreeSet::from([TOPIC.to_owned()]));
    for node in [&middle, &far] {
        node.mesh.set_members(members(&[&middle, &far]));
    }
    let mesh = seeker.mesh.clone();
    seek_until(&mesh, "the one who offers it", seeker.up(far_id)).await;
    assert_eq!(mesh.status().borrow().peers[&far_id].discovered_by, DiscoveredBy::Kademlia);
}

#[tokio::test]
async fn what_is_offered_reaches_a_member_that_comes_later() {
    let first = TestNode::start(settings()).await;
    first.mesh.offer(BTreeSet::from([TOPIC.to_owned()]));
    let mut second = TestNode::joining(&first).await;
    second.up(first.id()).await;
    for node in [&first, &second] {
        node.mesh.set_members(members(&[&first, &second]));
    }
    let kept = "libp2p_kad_inbound_requests_total{request=\"AddProvider\"}";
    soon("the record", async {
        while second.metric(kept) < 1.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_records_of_strangers_are_not_kept() {
    let middle = TestNode::start(settings()).await;
    // Its record carries an address of its own: nobody would have to know it to name it.
    let at = free_addr();
    let announced = NetSettings { listen: vec![at.clone()], announce: vec![at], ..settings() };
    let stranger = TestNode::start(NetSettings { bootstrap: vec![middle.addr()], ..announced }).await;
    let friend = TestNode::joining(&middle).await;
    let mut seeker = TestNode::joining(&middle).await;
    let (stranger_id, friend_id) = (stranger.id(), friend.id());
    seeker.up(middle.id()).await;
    middle.mesh.set_members(members(&[&middle, &friend]));
    let published = "libp2p_kad_inbound_requests_total{request=\"AddProvider\"}";
    for (nth, node) in [&stranger, &friend].into_iter().enumerate() {
        node.mesh.offer(BTreeSet::from([TOPIC.to_owned()]));
        // The stranger believes to be one of them.
        node.mesh.set_members(members(&[&middle]));
        soon("the record to come", async {
            while middle.metric(published) < nth as f64 + 1.0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
    let mesh = seeker.mesh.clone();
    seek_until(&mesh, "the member who offers it", seeker.up(friend_id)).await;
    // Were both kept, one answer would name both: asked a few times more, the stranger would be there.
    let stranger = seeker.knows("nothing", |status| status.peers.contains_key(&stranger_id));
    let found = timeout(Duration::from_millis(500), seek_until(&mesh, "nothing", stranger)).await;
    assert!(found.is_err(), "a stranger was found");
}
