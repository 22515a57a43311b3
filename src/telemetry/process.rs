//! What the system says of this process, read each time that the metrics are. All nodes of one process say the same.

use std::fs;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

/// Ticks of a processor's time in a second: USER_HZ, which is 100 wherever Linux runs.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads `/proc/self`. What cannot be read is left out.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        if let Some(bytes) = resident_bytes() {
            let gauge = ConstGauge::new(bytes);
            let help = "Memory of this process that is in RAM";
            let described =
                encoder.encode_descriptor("process_resident_memory", help, Some(&Unit::Bytes), gauge.metric_type())?;
            gauge.encode(described)?;
        }
        if let Some(seconds) = cpu_seconds() {
            let counter = ConstCounter::new(seconds);
            let help = "Time of processors that this process has used";
            let described =
                encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), counter.metric_type())?;
            counter.encode(described)?;
        }
        if let Some(files) = open_files() {
            let gauge = ConstGauge::new(files);
            let help = "Files and sockets that this process has open";
            let described = encoder.encode_descriptor("process_open_fds", help, None, gauge.metric_type())?;
            gauge.encode(described)?;
        }
        if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            let gauge = ConstGauge::new(i64::try_from(most).unwrap_or(i64::MAX));
            let help = "Files and sockets that this process may open";
            let described = encoder.encode_descriptor("process_max_fds", help, None, gauge.metric_type())?;
            gauge.encode(described)?;
        }
        Ok(())
    }
}

fn resident_bytes() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// User and system time are the 14th and 15th field of `stat`; the second one, in parentheses, may have blanks in it.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks = |nth: usize| fields.split_whitespace().nth(nth - 3)?.parse::<u32>().ok();
    Some((f64::from(ticks(14)?) + f64::from(ticks(15)?)) / TICKS_PER_SECOND)
}

fn open_files() -> Option<i64> {
    i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_uses() {
        assert!(resident_bytes().unwrap() > 1 << 20);
        assert!(open_files().unwrap() > 3);
        let before = cpu_seconds().unwrap();
        while cpu_seconds().unwrap() <= before {
            std::hint::spin_loop();
        }
    }
}
