use std::sync::atomic::AtomicU64;

use strum::IntoEnumIterator;

use super::*;

#[test]
fn docs_metrics_lists_every_metric_and_no_other() {
    let metrics = Metrics::default();
    count_all(&metrics, "gpu");
    metrics.left("session", "gpu", "Running", 1.0, Some(("Terminated", "ExitCode")));
    metrics.wrote("session-status");
    metrics.write_failed("session-status", "conflict");
    metrics.requested(Verb::Patch, Code(Some(409)));
    metrics.watch_restarted("Pod");
    metrics.committed("session", CommitResult::Deferred);
    metrics.lease_transitions(1);
    metrics.count_by(|| Gauge::iter().map(|gauge| Sample::new(gauge, &[], 1.0)).collect());
    let text = metrics.text();
    let names: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()).collect();
    let page = include_str!("../../docs/metrics.md");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    let documented: BTreeSet<&str> = cells.flat_map(|cell| cell.split('`').filter(|word| word.contains('_'))).collect();
    assert_eq!(names, documented);
}

#[test]
fn gauges_are_counted_when_they_are_read_and_go_with_what_they_count() {
    let metrics = Metrics::default();
    assert!(!metrics.text().contains("sokovan_sessions{"), "nobody counts yet");
    let number = Arc::new(AtomicU64::new(3));
    let known = number.clone();
    metrics.count_by(move || match known.load(std::sync::atomic::Ordering::Relaxed) {
        0 => vec![],
        _ => vec![Sample::new(Gauge::Sessions, &[("group", "gpu".into()), ("phase", "Running".into())], 3.0)],
    });
    assert!(metrics.text().contains("sokovan_sessions{group=\"gpu\",phase=\"Running\"} 3.0\n"), "{}", metrics.text());
    number.store(0, std::sync::atomic::Ordering::Relaxed);
    assert!(!metrics.text().contains("sokovan_sessions{"));
}

#[test]
fn the_time_in_a_phase_and_the_ends_are_recorded_by_scaling_group_and_go_with_it() {
    let metrics = Metrics::default();
    metrics.left("session", "gpu", "Running", 12.0, Some(("Terminated", "ExitCode")));
    let text = metrics.text();
    let labels = "{kind=\"session\",group=\"gpu\",phase=\"Running\"";
    assert!(text.contains(&format!("sokovan_phase_seconds_bucket{{le=\"30.0\",{}", &labels[1..])), "{text}");
    assert!(
        text.contains("sokovan_ends_total{kind=\"session\",group=\"gpu\",phase=\"Terminated\",reason=\"ExitCode\"} 1"),
        "{text}"
    );
    metrics.forget("gpu");
    assert_eq!(series(&metrics, "gpu"), 0);
    assert!(text.contains("sokovan_build_info{version="), "{text}");
}

const HANDLERS: [&str; 2] = ["schedule-sessions", "start-sessions"];

/// Counts runs and outcomes of every handler.
fn count_all(metrics: &Metrics, partition: &str) {
    for handler in HANDLERS {
        for result in [RunResult::Success, RunResult::Panicked] {
            metrics.ran(&Run { handler, partition: partition.into(), items: 3, result });
        }
        metrics.cycled(handler, Duration::from_millis(20));
        metrics.outcome(handler, partition, HistoryResult::NeedRetry);
    }
}

/// Returns the number of series of a scaling group.
fn series(metrics: &Metrics, group: &str) -> usize {
    metrics.text().lines().filter(|line| line.contains(&format!("group=\"{group}\""))).count()
}

#[test]
fn forgetting_a_scaling_group_removes_its_series_and_no_others() {
    let metrics = Metrics::default();
    // Runs have two results, outcomes one, and items have none.
    let all = HANDLERS.len() * 4;
    for name in ["gpu", "default"] {
        count_all(&metrics, name);
    }
    metrics.forget("gpu");
    let left = ["gpu", "default"].map(|group| series(&metrics, group));
    assert_eq!((left, metrics.partitions()), ([0, all], BTreeSet::from(["default".into()])));
    count_all(&metrics, "gpu");
    assert_eq!(series(&metrics, "gpu"), all, "a new scaling group of the same name counts from zero");
}

#[test]
fn runs_and_their_items_are_counted_by_handler_and_group_and_cycles_are_timed_by_handler() {
    let metrics = Metrics::default();
    for (result, items) in [(RunResult::Success, 5), (RunResult::Panicked, 1), (RunResult::Success, 2)] {
        metrics.ran(&Run { handler: "schedule-sessions", partition: "gpu".into(), items, result });
    }
    metrics.outcome("schedule-sessions", "gpu", HistoryResult::GiveUp);
    metrics.cycled("schedule-sessions", Duration::from_millis(20));
    let text = metrics.text();
    for (result, count) in [("success", 2), ("panicked", 1)] {
        let labels = format!("{{handler=\"schedule-sessions\",group=\"gpu\",result=\"{result}\"}}");
        assert!(text.contains(&format!("sokovan_handler_runs_total{labels} {count}\n")), "{text}");
    }
    assert!(text.contains("sokovan_handler_items_total{handler=\"schedule-sessions\",group=\"gpu\"} 8\n"), "{text}");
    assert!(text.contains("sokovan_cycle_seconds_bucket{le=\"0.03\",handler=\"schedule-sessions\"} 1\n"), "{text}");
    assert!(text.contains("result=\"give_up\"} 1\n"), "{text}");
}

#[test]
fn the_series_of_alarming_ends_and_of_refused_commits_begin_at_zero() {
    let metrics = Metrics::default();
    metrics.left("session", "gpu", "Pending", 1.0, None);
    metrics.committed("session", CommitResult::Written);
    let text = metrics.text();
    let alerts = include_str!("../../charts/sokovan/alerts/alerts.yaml");
    let list = alerts.split("ends_total{kind=\"session\",reason=~\"").nth(1).and_then(|rest| rest.split('"').next());
    for reason in list.expect("the reasons of an alert").split('|') {
        let labels = format!("{{kind=\"session\",group=\"gpu\",phase=\"Terminated\",reason=\"{reason}\"}}");
        assert!(text.contains(&format!("sokovan_ends_total{labels} 0\n")), "{labels}: {text}");
    }
    assert!(text.contains("sokovan_commits_total{kind=\"session\",result=\"refused\"} 0\n"), "{text}");
    assert!(!text.contains("\nsokovan_lease_transitions{}"), "the lease was not read yet");
    metrics.lease_transitions(7);
    assert!(metrics.text().contains("\nsokovan_lease_transitions{} 7\n"), "{}", metrics.text());
    metrics.forget("gpu");
    assert_eq!(series(&metrics, "gpu"), 0);
}

#[test]
fn requests_carry_their_code_and_those_without_an_answer_say_so() {
    let metrics = Metrics::default();
    metrics.requested(Verb::Read, Code(Some(200)));
    metrics.requested(Verb::Update, Code(None));
    let text = metrics.text();
    assert!(text.contains("sokovan_api_requests_total{verb=\"read\",code=\"200\"} 1\n"), "{text}");
    assert!(text.contains("sokovan_api_requests_total{verb=\"update\",code=\"none\"} 1\n"), "{text}");
}

#[test]
fn the_process_reports_its_cpu_memory_and_files() {
    let text = Metrics::default().text();
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).expect(name);
        line.parse().expect("a number")
    };
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!((1.0..value("process_max_fds")).contains(&value("process_open_fds")));
    assert!(value("process_cpu_seconds_total") >= 0.0 && value("process_start_time_seconds") > 1.7e9);
}
