//! TVR's metrics in the official program's JSON, and as tables.

use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::metrics::{ByKind, MomentMetrics, MomentRecalls, Recalls, THRESHOLDS, TOP};

/// Values under the names that the official program gives them.
pub(super) trait Named {
    fn entries(&self) -> Vec<(String, f64)>;
}

impl Named for Recalls {
    fn entries(&self) -> Vec<(String, f64)> {
        TOP.iter().zip(self.values()).map(|(k, value)| (format!("r{k}"), value)).collect()
    }
}

impl Named for MomentRecalls {
    fn entries(&self) -> Vec<(String, f64)> {
        let recalls = THRESHOLDS.iter().zip([&self.half, &self.tight]);
        recalls.flat_map(|(t, r)| r.entries().into_iter().map(move |(k, value)| (format!("{t}-{k}"), value))).collect()
    }
}

impl Serialize for MomentRecalls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.entries())
    }
}

impl<R: Named> Serialize for ByKind<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (kind, recalls, _) in &self.0 {
            for (name, value) in recalls.as_ref().map(R::entries).unwrap_or_default() {
                map.serialize_entry(&format!("{}-{name}", kind.code()), &value)?;
            }
        }
        map.serialize_entry("desc_type_ratio", &self.ratio())?;
        map.end()
    }
}

impl MomentMetrics {
    /// The two lines above [`MomentMetrics::row`]s.
    pub const HEAD: &str = concat!(
        "                 VCMR (IoU 0.5)          VCMR (IoU 0.7)          SVMR R@1     VR\n",
        "model            R@1   R@5  R@10 R@100   R@1   R@5  R@10 R@100   0.5   0.7   R@1   R@5  R@10 R@100",
    );

    /// What matters of all tasks in one line that begins with `name`.
    pub fn row(&self, name: &str) -> String {
        let all = |recalls: Option<Recalls>| recalls.map_or([None; 4], |r| r.values().map(Some));
        let (vcmr, svmr) = (self.vcmr, self.svmr);
        let values = [all(vcmr.map(|r| r.half)), all(vcmr.map(|r| r.tight))].concat().into_iter();
        let values = values.chain([svmr.map(|r| r.half.r1), svmr.map(|r| r.tight.r1)]).chain(all(self.vr));
        let cells: Vec<String> = values.map(|v| v.map_or("    -".into(), |v| format!("{v:5.1}"))).collect();
        format!("{name:<14} {}", cells.join(" "))
    }

    /// Every figure of all queries together, by task and name: `VCMR/0.5-r1`.
    pub fn figures(&self) -> Vec<(String, f64)> {
        let tasks = [
            ("VCMR", self.vcmr.map(|r| r.entries())),
            ("SVMR", self.svmr.map(|r| r.entries())),
            ("VR", self.vr.map(|r| r.entries())),
        ];
        let of_task = |(task, entries): (&'static str, Option<Vec<(String, f64)>>)| {
            entries.unwrap_or_default().into_iter().map(move |(name, value)| (format!("{task}/{name}"), value))
        };
        tasks.into_iter().flat_map(of_task).collect()
    }

    /// The figure that the official trainer maximises: VCMR R@1 at both overlaps, together.
    pub fn selection(&self) -> f64 {
        self.vcmr.map_or(0.0, |r| r.half.r1 + r.tight.r1)
    }
}

/// Every figure, with a line for each kind of query.
impl fmt::Display for MomentMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = THRESHOLDS.iter().flat_map(|t| TOP.map(|k| format!("R@{k} {t}")));
        write!(f, "{:<14}{}", "", columns.map(|c| format!("{c:>12}")).collect::<String>())?;
        let tasks = [("VCMR", &self.vcmr, &self.vcmr_by_kind), ("SVMR", &self.svmr, &self.svmr_by_kind)];
        for (task, recalls, by_kind) in tasks {
            let Some(recalls) = recalls else { continue };
            row(f, task, recalls)?;
            for (kind, recalls, _) in by_kind.iter().flat_map(|by_kind| &by_kind.0) {
                recalls.iter().try_for_each(|recalls| row(f, &format!("  {}", kind.code()), recalls))?;
            }
        }
        if let Some(recalls) = &self.vr {
            write!(f, "\n\n{:<14}{}", "", TOP.map(|k| format!("{:>12}", format!("R@{k}"))).concat())?;
            row(f, "VR", recalls)?;
        }
        let moments = self.vcmr_by_kind.as_ref().or(self.svmr_by_kind.as_ref()).map(ByKind::ratio);
        match moments.or(self.vr_by_kind.as_ref().map(ByKind::ratio)) {
            Some(ratio) => write!(f, "\n\nkinds of queries: {ratio}"),
            None => Ok(()),
        }
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, recalls: &impl Named) -> fmt::Result {
    write!(f, "\n{name:<14}")?;
    recalls.entries().iter().try_for_each(|(_, value)| write!(f, "{value:>12.2}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::moments::QueryKind;
    use serde_json::json;

    fn metrics() -> MomentMetrics {
        let half = Recalls { r1: 12.5, r5: 20.0, r10: 30.0, r100: 80.0 };
        let vcmr = MomentRecalls { half, tight: Recalls { r1: 3.33, ..half } };
        let [video, text, both] = [QueryKind::Video, QueryKind::Text, QueryKind::Both];
        let by_kind = ByKind([(video, Some(vcmr), 100.0), (text, None, 0.0), (both, None, 0.0)]);
        let vr = Some(Recalls { r1: 40.0, ..half });
        MomentMetrics { vcmr: Some(vcmr), vcmr_by_kind: Some(by_kind), vr, ..MomentMetrics::default() }
    }

    #[test]
    fn json_has_the_official_names() {
        let json = json!(metrics());
        assert_eq!((&json["VCMR"]["0.7-r1"], &json["VR"]["r100"]), (&json!(3.33), &json!(80.0)));
        assert_eq!(json["VCMR_by_type"]["v-0.5-r10"], 30.0);
        assert_eq!(json["VCMR_by_type"]["desc_type_ratio"], "v 100.0 t 0.0 vt 0.0");
        assert_eq!(json["VCMR_by_type"].as_object().unwrap().len(), 9);
        assert!(json.get("SVMR").is_none());
    }

    #[test]
    fn tables_hold_every_task_that_there_is() {
        let text = metrics().to_string();
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["VCMR", "12.50", "20.00", "30.00", "80.00", "3.33", "20.00", "30.00", "80.00"]);
        assert_eq!((rows[2][0], rows[5][0], rows[5][1]), ("v", "VR", "40.00"));
        assert_eq!(text.lines().last(), Some("kinds of queries: v 100.0 t 0.0 vt 0.0"));
        let row = metrics().row("a");
        assert_eq!(row.split_whitespace().nth(5), Some("3.3"));
        assert_eq!(row.matches(" -").count(), 2, "no SVMR: {row}");
        assert_eq!(row.len(), MomentMetrics::HEAD.lines().last().unwrap().len());
    }

    #[test]
    fn figures_are_named_by_task() {
        let figures = metrics().figures();
        assert_eq!((figures.len(), &figures[4]), (12, &("VCMR/0.7-r1".to_string(), 3.33)));
        assert_eq!(metrics().selection(), 12.5 + 3.33);
    }
}
