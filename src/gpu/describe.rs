//! Adapters in tables and as JSON.

use std::fmt;

use serde_json::{Value, json};
use wgpu::Features;

use super::{AdapterReport, KernelFamily};
use crate::shader::ParamsIn;

/// The features that the crate uses or may come to use, with what for.
const FEATURES: [(&str, Features, &str); 6] = [
    ("SUBGROUP", Features::SUBGROUP, "kernels for software adapters"),
    ("IMMEDIATES", Features::IMMEDIATES, "parameters in the command stream"),
    ("TIMESTAMP_QUERY", Features::TIMESTAMP_QUERY, "time per kernel"),
    ("SHADER_F16", Features::SHADER_F16, "half precision"),
    ("EXPERIMENTAL_COOPERATIVE_MATRIX", Features::EXPERIMENTAL_COOPERATIVE_MATRIX, "matrix units; not used yet"),
    ("PIPELINE_CACHE", Features::PIPELINE_CACHE, "compiled shaders kept on disk, where asked for"),
];

impl AdapterReport {
    /// The adapter as JSON: names, limits, and the features that the crate knows.
    pub fn to_json(&self) -> Value {
        let features: Vec<&str> = FEATURES.iter().filter(|f| self.features.contains(f.1)).map(|f| f.0).collect();
        json!({
            "name": self.name,
            "backend": self.backend,
            "kind": self.kind,
            "driver": self.driver,
            "subgroup_size": [self.subgroup_size.0, self.subgroup_size.1],
            "kernel_family": match self.family {
                KernelFamily::Tiled => "tiled",
                KernelFamily::Subgroup { .. } => "subgroup",
            },
            "parameters": self.parameters(),
            "limits": self.main_limits().into_iter().map(|(name, value)| (name.to_string(), value.into()))
                .collect::<serde_json::Map<_, _>>(),
            "features": features,
        })
    }

    fn parameters(&self) -> &'static str {
        match self.params {
            ParamsIn::Immediates => "immediates",
            ParamsIn::Uniform => "uniform buffer",
        }
    }

    fn main_limits(&self) -> [(&'static str, u64); 8] {
        let l = &self.limits;
        [
            ("max_buffer_size", l.max_buffer_size),
            ("max_storage_buffer_binding_size", l.max_storage_buffer_binding_size),
            ("max_storage_buffers_per_shader_stage", l.max_storage_buffers_per_shader_stage.into()),
            ("max_compute_workgroups_per_dimension", l.max_compute_workgroups_per_dimension.into()),
            ("max_compute_invocations_per_workgroup", l.max_compute_invocations_per_workgroup.into()),
            ("max_compute_workgroup_storage_size", l.max_compute_workgroup_storage_size.into()),
            ("min_storage_buffer_offset_alignment", l.min_storage_buffer_offset_alignment.into()),
            ("max_immediate_size", l.max_immediate_size.into()),
        ]
    }
}

/// What was chosen for the adapter, its limits and its features, in tables.
impl fmt::Display for AdapterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (smallest, largest) = self.subgroup_size;
        let subgroup = if smallest == largest { smallest.to_string() } else { format!("{smallest} to {largest}") };
        let (family, parameters) = (self.family.to_string(), self.parameters());
        writeln!(f, "  {:<12} {}\n  {:<12} {}", "adapter", self.name, "driver", self.driver)?;
        writeln!(f, "  {:<12} {family}\n  {:<12} {parameters}", "hot kernels", "parameters")?;
        writeln!(f, "  {:<12} {subgroup}\n\nLimits\n", "subgroup")?;
        for (name, value) in self.main_limits() {
            writeln!(f, "  {:>16}  {name}", grouped(value))?;
        }
        writeln!(f, "\nFeatures\n")?;
        for (name, feature, purpose) in FEATURES {
            let has = if self.features.contains(feature) { "yes" } else { "no" };
            writeln!(f, "  {has:<4} {name:<32} {purpose}")?;
        }
        Ok(())
    }
}

/// 1234567 as "1,234,567".
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    String::from_utf8_lossy(&groups.join(&b',')).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let cases =
            [(0, "0"), (999, "999"), (1000, "1,000"), (1234567, "1,234,567"), (u64::MAX, "18,446,744,073,709,551,615")];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn tables_and_json_tell_the_same() {
        let gpu = crate::kernels::testing::gpus().remove(0);
        let (text, json) = (gpu.report().to_string(), gpu.report().to_json());
        assert!(text.contains(json["name"].as_str().unwrap()));
        for (name, value) in json["limits"].as_object().unwrap() {
            assert!(text.contains(&format!("{}  {name}\n", grouped(value.as_u64().unwrap()))), "{text}");
        }
        let yes = text.matches("  yes ").count();
        assert_eq!(json["features"].as_array().unwrap().len(), yes);
    }
}
