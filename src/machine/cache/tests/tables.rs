//! The protocols' tables, held to the specification state by state and event by event. An empty cell cannot happen.

use crate::machine::cache::{
    EntryAct, EntryEvent, EntryState, LineAct, LineEvent, LineMove, LineState, Protocol, entry_act, line_move,
};

const LOAD_TO_FETCH: &str = "| Load | Store | Evict | Inv | Recall → S | Recall → I | Fetch |";

const MESI: &str = "
| I  | GetS → IS | GetM → IM    |                | ack             | NotOwner        | NotOwner           | |
| S  | hit       | Upgrade → SM | drop, PutS → I | ack → I         | Surrender again | NotOwner           | |
| E  | hit       | hit → M      | Put → EI       | ack → I         | Surrender → S   | Surrender → I      | |
| O  |           |              |                |                 |                 |                    | |
| M  | hit       | hit          | Put → MI       | ignored         | Surrender → S   | Surrender → MI     | |
| IS | join      | wait         |                | ack, minver     | wait for the end | wait for the end  | |
| IM | wait      | wait         |                | ack, minver     | wait for the end | wait for the end  | |
| SM | hit       | wait         |                | ack, minver → IM | wait for the end | wait for the end | |
| OM |           |              |                |                 |                 |                    | |
| EI | GetS → IS | wait         |                | ack             | from the buffer | from the buffer    | |
| OI |           |              |                |                 |                 |                    | |
| MI | GetS → IS | wait         |                | ack             | from the buffer | from the buffer    | |
";

const MOSI: &str = "
| I  | GetS → IS | GetM → IM    |                | ack             | | NotOwner         | NotOwner         |
| S  | hit       | Upgrade → SM | drop, PutS → I | ack → I         | | NotOwner         | NotOwner         |
| E  |           |              |                |                 | |                  |                  |
| O  | hit       | Upgrade → OM | Put → OI       | ignored         | | Surrender → OI   | Data             |
| M  | hit       | hit          | Put → MI       | ignored         | | Surrender → MI   | Data → O         |
| IS | join      | wait         |                | ack, minver     | | wait for the end | wait for the end |
| IM | wait      | wait         |                | ack, minver     | | wait for the end | wait for the end |
| SM | hit       | wait         |                | ack, minver → IM | | wait for the end | wait for the end |
| OM | hit       | wait         |                | ignored         | | wait for the end | wait for the end |
| EI |           |              |                |                 | |                  |                  |
| OI | GetS → IS | wait         |                | ack             | | from the buffer  | from the buffer  |
| MI | GetS → IS | wait         |                | ack             | | from the buffer  | from the buffer  |
";

const MOESI: &str = "
| I  | GetS → IS | GetM → IM    |                | ack             | | NotOwner         | NotOwner         |
| S  | hit       | Upgrade → SM | drop, PutS → I | ack → I         | | NotOwner         | NotOwner         |
| E  | hit       | hit → M      | Put → EI       | ack → I         | | Surrender → I    | Data → O         |
| O  | hit       | Upgrade → OM | Put → OI       | ignored         | | Surrender → OI   | Data             |
| M  | hit       | hit          | Put → MI       | ignored         | | Surrender → MI   | Data → O         |
| IS | join      | wait         |                | ack, minver     | | wait for the end | wait for the end |
| IM | wait      | wait         |                | ack, minver     | | wait for the end | wait for the end |
| SM | hit       | wait         |                | ack, minver → IM | | wait for the end | wait for the end |
| OM | hit       | wait         |                | ignored         | | wait for the end | wait for the end |
| EI | GetS → IS | wait         |                | ack             | | from the buffer  | from the buffer  |
| OI | GetS → IS | wait         |                | ack             | | from the buffer  | from the buffer  |
| MI | GetS → IS | wait         |                | ack             | | from the buffer  | from the buffer  |
";

fn said(state: LineState, LineMove { act, next }: LineMove) -> String {
    let act = match act {
        LineAct::Hit => "hit",
        LineAct::GetS => "GetS",
        LineAct::GetM => "GetM",
        LineAct::Upgrade => "Upgrade",
        LineAct::Join => "join",
        LineAct::Wait => "wait",
        LineAct::PutS => "drop, PutS",
        LineAct::Put => "Put",
        LineAct::Ack => "ack",
        LineAct::AckRaise => "ack, minver",
        LineAct::Ignore => "ignored",
        LineAct::NotOwner => "NotOwner",
        LineAct::Surrender => "Surrender",
        LineAct::SurrenderAgain => "Surrender again",
        LineAct::Await => "wait for the end",
        LineAct::FromBuffer => "from the buffer",
        LineAct::Supply => "Data",
    };
    if state == next { act.to_owned() } else { format!("{act} → {}", next.as_str()) }
}

/// The cells of a line of a table, the first one included.
fn cells(line: &str) -> Vec<&str> {
    line.trim().trim_start_matches('|').trim_end_matches('|').split('|').map(str::trim).collect()
}

fn rows(table: &str) -> Vec<Vec<&str>> {
    table.trim().lines().map(cells).collect()
}

#[test]
fn each_protocol_does_with_lines_what_its_table_says() {
    assert_eq!(cells(LOAD_TO_FETCH).len(), LineEvent::ALL.len(), "a column for each event, in their order");
    for (protocol, table) in [(Protocol::Mesi, MESI), (Protocol::Mosi, MOSI), (Protocol::Moesi, MOESI)] {
        let rows = rows(table);
        assert_eq!(rows.len(), LineState::ALL.len(), "{protocol:?}: a row for each state");
        for (state, row) in LineState::ALL.into_iter().zip(rows) {
            assert_eq!(row[0], state.as_str(), "{protocol:?}: the rows are in order");
            for (event, cell) in LineEvent::ALL.into_iter().zip(&row[1..]) {
                let does = line_move(protocol, state, event).map_or(String::new(), |it| said(state, it));
                assert_eq!(does, *cell, "{protocol:?}, {event:?} in {state:?}");
            }
        }
    }
}

const ENTRIES_OF_MESI: &str = "
| I     | E, or miss    | Grant                     | nothing |                    | stale |
| S     | Data          | Inv, Grant                | strike  |                    | stale |
| Owned | Recall → S    | Inv, Recall → I, Grant    | strike  | store              | stale |
| Busy  | wait          | wait                      | strike  | as the Surrender   | stale |
";

const ENTRIES_OF_MOSI: &str = "
| I     | Data, or miss | Grant                     | nothing |                    | stale |
| S     | Data          | Inv, Grant                | strike  |                    | stale |
| Owned | Redirect      | Inv, Recall → I, Grant    | strike  | store              | stale |
| Busy  | wait          | wait                      | strike  | as the Surrender   | stale |
";

const ENTRIES_OF_MOESI: &str = "
| I     | E, or miss    | Grant                     | nothing |                    | stale |
| S     | Data          | Inv, Grant                | strike  |                    | stale |
| Owned | Redirect      | Inv, Recall → I, Grant    | strike  | store              | stale |
| Busy  | wait          | wait                      | strike  | as the Surrender   | stale |
";

fn said_of_entry(state: EntryState, act: EntryAct) -> &'static str {
    match act {
        EntryAct::GrantExclusive => "E, or miss",
        EntryAct::Share if state == EntryState::I => "Data, or miss",
        EntryAct::Share => "Data",
        EntryAct::Grant => "Grant",
        EntryAct::Invalidate => "Inv, Grant",
        EntryAct::InvalidateAndRecall => "Inv, Recall → I, Grant",
        EntryAct::Redirect => "Redirect",
        EntryAct::RecallShared => "Recall → S",
        EntryAct::Defer => "wait",
        EntryAct::Strike => "strike",
        EntryAct::Ignore => "nothing",
        EntryAct::Take => "store",
        EntryAct::CountAsSurrender => "as the Surrender",
        EntryAct::Stale => "stale",
    }
}

#[test]
fn each_protocol_does_with_entries_what_its_table_says() {
    let tables =
        [(Protocol::Mesi, ENTRIES_OF_MESI), (Protocol::Mosi, ENTRIES_OF_MOSI), (Protocol::Moesi, ENTRIES_OF_MOESI)];
    for (protocol, table) in tables {
        let rows = rows(table);
        assert_eq!(rows.len(), EntryState::ALL.len(), "{protocol:?}: a row for each state");
        for (state, row) in EntryState::ALL.into_iter().zip(rows) {
            assert_eq!(row[0], format!("{state:?}"), "{protocol:?}: the rows are in order");
            for (event, cell) in EntryEvent::ALL.into_iter().zip(&row[1..]) {
                let does = entry_act(protocol, state, event).map_or("", |act| said_of_entry(state, act));
                assert_eq!(does, *cell, "{protocol:?}, {event:?} in {state:?}");
            }
        }
    }
}
