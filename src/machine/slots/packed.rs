//! The slots as they travel and are kept: with every home named once, and by a number from then on.
//!
//! A view goes to every node with every change, so its size counts: 256 slots of three homes are some two kilobytes.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::{Came, Slot};
use crate::{
    ids::Epoch,
    machine::cache::{HomeId, SLOTS, SlotId},
};

/// All slots that were ever placed. Those who share them share the memory.
pub type SlotTable = Arc<BTreeMap<SlotId, Slot>>;

/// Everyone, and what refers to them by their numbers.
#[derive(Default, Serialize, Deserialize)]
struct Packed {
    homes: Vec<HomeId>,
    slots: Vec<PackedSlot>,
}

/// Epoch, home, how it came, where it goes.
type PackedSlot = (SlotId, Epoch, Option<u32>, PackedCame, Option<u32>);

#[derive(Serialize, Deserialize)]
enum PackedCame {
    #[serde(rename = "f")]
    Founded,
    #[serde(rename = "l")]
    Lost,
    #[serde(rename = "h")]
    Handed(u32),
}

fn number(homes: &mut Vec<HomeId>, home: HomeId) -> u32 {
    let at = homes.iter().position(|known| *known == home).unwrap_or_else(|| {
        homes.push(home);
        homes.len() - 1
    });
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// Packs them: for `#[serde(with)]`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(slots: &SlotTable, serializer: S) -> Result<S::Ok, S::Error> {
    let mut homes = Vec::new();
    let mut packed = Vec::with_capacity(slots.len());
    for (id, slot) in slots.iter() {
        let home = slot.home.map(|home| number(&mut homes, home));
        let came = match slot.came {
            Came::Founded => PackedCame::Founded,
            Came::Lost => PackedCame::Lost,
            Came::Handed(by) => PackedCame::Handed(number(&mut homes, by)),
        };
        let to = slot.to.map(|to| number(&mut homes, to));
        packed.push((*id, slot.epoch, home, came, to));
    }
    Packed { homes, slots: packed }.serialize(serializer)
}

/// Unpacks them: for `#[serde(with)]`.
///
/// # Errors
/// Those of the deserializer, and where a slot does not exist or refers to somebody who is not named.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SlotTable, D::Error> {
    let Packed { homes, slots } = Packed::deserialize(deserializer)?;
    let unknown = || D::Error::custom("a slot refers to somebody who is not named");
    let home = |number: u32| homes.get(number as usize).copied().ok_or_else(unknown);
    let mut unpacked = BTreeMap::new();
    for (id, epoch, of, came, to) in slots {
        if id.0 >= SLOTS {
            return Err(D::Error::custom("there is no such slot"));
        }
        let came = match came {
            PackedCame::Founded => Came::Founded,
            PackedCame::Lost => Came::Lost,
            PackedCame::Handed(by) => Came::Handed(home(by)?),
        };
        let slot = Slot { epoch, home: of.map(home).transpose()?, came, to: to.map(home).transpose()? };
        unpacked.insert(id, slot);
    }
    Ok(Arc::new(unpacked))
}

/// The slots of these, for those who make them up.
pub fn table(slots: impl IntoIterator<Item = (SlotId, Slot)>) -> SlotTable {
    Arc::new(slots.into_iter().collect())
}
