//! The process's own use of CPU, memory and files, under the names that Prometheus' client libraries share.

use std::fmt;

use procfs::process::Process;
use procfs::{ProcResult, WithCurrentSystemInfo};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

#[derive(Debug)]
pub(super) struct OwnProcess;

struct Use {
    cpu_seconds: f64,
    resident_bytes: u64,
    started_at: u64,
    open_files: u64,
    max_files: u64,
}

fn read() -> ProcResult<Use> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    let started = procfs::boot_time_secs()? + stat.starttime / procfs::ticks_per_second();
    let ticks = u32::try_from(stat.utime + stat.stime).unwrap_or(u32::MAX);
    let per_second = u32::try_from(procfs::ticks_per_second()).unwrap_or(100);
    let limit = process.limits()?.max_open_files.soft_limit;
    Ok(Use {
        cpu_seconds: f64::from(ticks) / f64::from(per_second),
        resident_bytes: stat.rss_bytes().get(),
        started_at: started,
        open_files: process.fd_count()? as u64,
        max_files: match limit {
            procfs::process::LimitValue::Value(value) => value,
            procfs::process::LimitValue::Unlimited => u64::MAX,
        },
    })
}

impl Collector for OwnProcess {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Without /proc there is nothing to report.
        let Ok(now) = read() else { return Ok(()) };
        let cpu = ConstCounter::new(now.cpu_seconds);
        let help = "CPU time of the process";
        cpu.encode(encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), cpu.metric_type())?)?;
        let gauges = [
            ("process_resident_memory", "Memory of the process", Some(&Unit::Bytes), now.resident_bytes),
            ("process_start_time", "When the process started, since 1970", Some(&Unit::Seconds), now.started_at),
            ("process_open_fds", "Open files of the process", None, now.open_files),
            ("process_max_fds", "Limit of open files", None, now.max_files),
        ];
        for (name, help, unit, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
