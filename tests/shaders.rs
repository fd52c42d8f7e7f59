//! Every shader variant, offline: parsed and validated by naga, written as SPIR-V, MSL and HLSL, and held to the limits
//! that every adapter has. No GPU is needed.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::process::Command;

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use reelgrad::kernels;
use reelgrad::shader::{ParamsIn, Variant, bindings, preprocess};

const MAX_STORAGE_BINDINGS: usize = 8;
const MAX_INVOCATIONS: u32 = 256;
const MAX_WORKGROUP_BYTES: u32 = 16 << 10;
const MAX_PARAMS_BYTES: u32 = 128;

/// A parameter's name, type and offset.
type Placed = (String, &'static str, u32);

fn compile(variant: &Variant, params: ParamsIn) -> (String, naga::Module, ModuleInfo) {
    let wgsl = preprocess(variant, params).unwrap_or_else(|e| panic!("{e}"));
    let module = naga::front::wgsl::parse_str(&wgsl)
        .unwrap_or_else(|e| panic!("{}: {}", variant.label(), e.emit_to_string(&wgsl)));
    // unpack2x16float is there wherever Vulkan, Metal or DX12 is.
    let capabilities = Capabilities::IMMEDIATES | Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{}: {}", variant.label(), e.emit_to_string(&wgsl)));
    (wgsl, module, info)
}

/// The bindings as naga sees them: number, and whether the shader declares write access.
fn declared(module: &naga::Module) -> Vec<(u32, bool)> {
    let mut found: Vec<(u32, bool)> = module
        .global_variables
        .iter()
        .filter_map(|(_, v)| match (v.space, &v.binding) {
            (naga::AddressSpace::Storage { access }, Some(b)) => {
                assert_eq!(b.group, 0, "storage buffers are in group 0");
                Some((b.binding, access.contains(naga::StorageAccess::STORE)))
            }
            _ => None,
        })
        .collect();
    found.sort_unstable();
    found
}

#[test]
fn the_list_has_no_duplicates_and_covers_every_shader_file() {
    let all = kernels::variants();
    let unique: HashSet<&Variant> = all.iter().collect();
    assert_eq!(unique.len(), all.len(), "a variant is listed twice");
    let listed: HashSet<String> = all.iter().map(|v| v.name().to_string()).collect();
    let files = shader_files();
    assert!(files.len() > 50, "only {} files were found", files.len());
    for path in files {
        let name = path.file_stem().unwrap().to_string_lossy().to_string();
        assert!(listed.contains(&name), "{} is in no list of variants", path.display());
    }
}

/// The files of kernels: all but the pieces that they import.
fn shader_files() -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders"))];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("shared") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "wgsl") {
                files.push(path);
            }
        }
    }
    files
}

#[test]
fn bits_of_flags_have_one_name_on_both_sides() {
    // Which of the flags that Rust declares some shader reads.
    let mut declared = BTreeMap::new();
    for variant in kernels::variants() {
        let (label, flags) = (variant.label(), variant.params().flags);
        flags.iter().for_each(|&(flag, _)| _ = declared.entry((flags, flag)).or_insert(false));
        let wgsl = preprocess(&variant, ParamsIn::Immediates).unwrap();
        for member in wgsl.split("(p.").skip(1) {
            let inside = member.split([')', ',']).next().unwrap();
            let Some((name, mask)) = inside.split_once(" & ") else { continue };
            let Some(read) = flags.iter().find(|(flag, _)| *flag == mask) else {
                panic!("{label}: p.{name} & {mask}: Rust declares no such flag")
            };
            declared.insert((flags, read.0), true);
        }
    }
    let unread: Vec<_> = declared.iter().filter(|(_, read)| !**read).map(|((_, flag), _)| flag).collect();
    assert!(declared.len() > 10 && unread.is_empty(), "flags that no shader reads: {unread:?}");
}

#[test]
fn every_variant_is_valid_and_within_every_adapters_limits() {
    for variant in kernels::variants() {
        for params in [ParamsIn::Immediates, ParamsIn::Uniform] {
            let label = variant.label();
            let (wgsl, module, info) = compile(&variant, params);
            let seen = declared(&module);
            assert!(seen.len() <= MAX_STORAGE_BINDINGS, "{label}: {} storage bindings", seen.len());
            assert!(seen.iter().enumerate().all(|(i, b)| b.0 == i as u32), "{label}: bindings are not 0, 1, 2 ..");
            let reflected: Vec<(u32, bool)> = bindings(&wgsl).iter().map(|b| (b.index, b.writes)).collect();
            assert_eq!(reflected, seen, "{label}: the reflection differs from naga");

            let entry = &module.entry_points[0];
            assert_eq!((module.entry_points.len(), entry.name.as_str()), (1, "main"), "{label}");
            let invocations: u32 = entry.workgroup_size.iter().product();
            assert!(invocations <= MAX_INVOCATIONS, "{label}: {invocations} invocations");
            let mut layouter = naga::proc::Layouter::default();
            layouter.update(module.to_ctx()).unwrap();
            let bytes_in = |wanted: fn(naga::AddressSpace) -> bool| -> u32 {
                let used = module.global_variables.iter().filter(|(_, v)| wanted(v.space));
                used.map(|(_, v)| layouter[v.ty].size).sum()
            };
            let workgroup = bytes_in(|s| matches!(s, naga::AddressSpace::WorkGroup));
            assert!(workgroup <= MAX_WORKGROUP_BYTES, "{label}: {workgroup} bytes of workgroup memory");
            let parameters = bytes_in(|s| matches!(s, naga::AddressSpace::Immediate | naga::AddressSpace::Uniform));
            assert!(parameters <= MAX_PARAMS_BYTES, "{label}: {parameters} bytes of parameters");

            // What is declared writable is written: a needless read_write costs a barrier between dispatches.
            let function = info.get_entry_point(0);
            for (handle, variable) in module.global_variables.iter() {
                if let naga::AddressSpace::Storage { access } = variable.space {
                    let used = function[handle];
                    let name = variable.name.as_deref().unwrap_or("?");
                    assert!(!used.is_empty(), "{label}: {name} is bound and never used");
                    let writes =
                        used.contains(naga::valid::GlobalUse::WRITE) || used.contains(naga::valid::GlobalUse::ATOMIC);
                    assert_eq!(writes, access.contains(naga::StorageAccess::STORE), "{label}: access of {name}");
                }
            }
        }
    }
}

#[test]
fn every_variant_becomes_spirv_msl_and_hlsl() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (number, variant) in kernels::variants().iter().enumerate() {
        let label = variant.label();
        let (_, module, info) = compile(variant, ParamsIn::Immediates);
        let words = naga::back::spv::write_vec(
            &module,
            &info,
            &naga::back::spv::Options { lang_version: (1, 3), ..Default::default() },
            None,
        )
        .unwrap_or_else(|e| panic!("{label}: SPIR-V: {e}"));
        let path = folder.path().join(format!("{number}.spv"));
        std::fs::write(&path, words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
        files.push((label.clone(), path));
        let msl = naga::back::msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
        naga::back::msl::write_string(&module, &info, &msl, &Default::default())
            .unwrap_or_else(|e| panic!("{label}: MSL: {e}"));
        let mut text = String::new();
        let hlsl = naga::back::hlsl::Options {
            shader_model: naga::back::hlsl::ShaderModel::V6_2,
            fake_missing_bindings: true,
            immediates_target: Some(Default::default()),
            ..Default::default()
        };
        let pipeline = naga::back::hlsl::PipelineOptions::default();
        naga::back::hlsl::Writer::new(&mut text, &hlsl, &pipeline)
            .write(&module, &info, None)
            .unwrap_or_else(|e| panic!("{label}: HLSL: {e}"));
    }
    for (label, path) in files {
        let output = Command::new("spirv-val").args(["--target-env", "vulkan1.1"]).arg(path).output();
        let output = output.expect("spirv-val runs; it comes with SPIRV-Tools (Debian: spirv-tools)");
        assert!(output.status.success(), "{label}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The members of the struct behind `#params` as naga sees them, and the struct's size.
fn params_struct(module: &naga::Module) -> Option<(Vec<Placed>, u32)> {
    let (_, variable) = module.global_variables.iter().find(|(_, v)| v.space == naga::AddressSpace::Immediate)?;
    let naga::TypeInner::Struct { members, span } = &module.types[variable.ty].inner else {
        panic!("parameters are a struct")
    };
    let ty = |handle: naga::Handle<naga::Type>| match module.types[handle].inner {
        naga::TypeInner::Scalar(naga::Scalar::U32) => "u32",
        naga::TypeInner::Scalar(naga::Scalar::F32) => "f32",
        ref other => panic!("no member may be {other:?}"),
    };
    let member = |m: &naga::StructMember| (m.name.clone().unwrap_or_default(), ty(m.ty), m.offset);
    Some((members.iter().map(member).collect(), *span))
}

/// The value of a constant of the module.
fn constant(module: &naga::Module, name: &str) -> Option<u32> {
    let (_, found) = module.constants.iter().find(|(_, c)| c.name.as_deref() == Some(name))?;
    match module.global_expressions[found.init] {
        naga::Expression::Literal(naga::Literal::U32(value)) => Some(value),
        ref other => panic!("{name} is {other:?}"),
    }
}

#[test]
fn parameters_are_those_of_the_shaders() {
    for variant in kernels::variants() {
        let label = variant.label();
        let (_, module, _) = compile(&variant, ParamsIn::Immediates);
        let flat = |m: &reelgrad::shader::Members| {
            let (ty, offset) = (m.ty, m.offset);
            let places = m.names.iter().enumerate();
            places.map(|(i, name)| (name.to_string(), ty, (offset + 4 * i) as u32)).collect::<Vec<_>>()
        };
        let declared: Vec<_> = variant.params().members.iter().flat_map(flat).collect();
        let (members, size) = params_struct(&module).unwrap_or_default();
        assert_eq!(declared, members, "{label}: Rust's parameters (left) are not the shader's");
        assert_eq!(variant.params().bytes, size as usize, "{label}: the size of the parameters");
        for &(flag, bit) in variant.params().flags {
            // A variant need not read every bit.
            assert_eq!(constant(&module, flag).unwrap_or(bit), bit, "{label}: {flag}");
        }
    }
}
