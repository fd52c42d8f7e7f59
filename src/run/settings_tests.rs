use serde::Deserialize;

use super::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Toy {
    data: ToyData,
    fit: ToyFit,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct ToyData {
    root: String,
    samples: usize,
    most: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct ToyFit {
    lr: f32,
    steps: u64,
    schedule: Schedule,
    plateau: Option<Plateau>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Schedule {
    Constant,
    Cosine,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Plateau {
    factor: f64,
    #[serde(default)]
    patience: u64,
}

impl Default for Toy {
    fn default() -> Self {
        let fit = ToyFit::default();
        Self { data: ToyData { root: "here".into(), ..ToyData::default() }, fit }
    }
}

impl Default for ToyFit {
    fn default() -> Self {
        let plateau = Some(Plateau { factor: 0.5, patience: 5 });
        Self { lr: 0.1, steps: 10, schedule: Schedule::Constant, plateau }
    }
}

/// The toy's settings with one as a user writes it.
fn set(text: &str) -> Result<Toy> {
    lay_setting(Toy::default(), &text.parse()?, &mut BTreeSet::new())
}

#[test]
fn values_are_json_or_text() {
    assert_eq!(set("fit.lr=2e-4").unwrap().fit.lr, 2e-4);
    assert_eq!(set("fit.schedule=cosine").unwrap().fit.schedule, Schedule::Cosine);
    assert_eq!(set("data.root=a=b").unwrap().data.root, "a=b");
    // Text that looks like a number or nothing.
    assert_eq!(set("data.root=007").unwrap().data.root, "007");
    assert_eq!(set("data.root=9000").unwrap().data.root, "9000");
    assert_eq!(set("data.root=null").unwrap().data.root, "null");
    assert_eq!(set("data.most=3").unwrap().data.most, Some(3));
    assert_eq!(set("fit.plateau=null").unwrap().fit.plateau, None);
    assert_eq!(set("fit.plateau.patience=7").unwrap().fit.plateau, Some(Plateau { factor: 0.5, patience: 7 }));
    let fit = set(r#"fit={"lr": 1, "steps": 3}"#).unwrap().fit;
    assert_eq!(fit, ToyFit { lr: 1.0, steps: 3, ..ToyFit::default() });
    let none = set("fit.plateau=null").unwrap();
    let again = with(&none, "fit.plateau", json!({ "factor": 0.1 })).unwrap();
    assert_eq!(again.fit.plateau, Some(Plateau { factor: 0.1, patience: 0 }));
    assert!(matches!("fit.lr".parse::<Setting>(), Err(Error::Argument { argument: "set", .. })));
}

#[test]
fn an_unknown_name_is_told_the_nearest() {
    for (text, nearest) in [
        ("fit.lrr=1", "fit.lr"),
        ("lr=1", "fit.lr"),
        ("model.steps=1", "fit.steps"),
        ("fit.plateau.patients=1", "fit.plateau.patience"),
        ("data.foot=x", "data.root"),
        ("fit.lr.x=1", "fit.lr"),
        (r#"fit={"stepz": 1}"#, "fit.steps"),
    ] {
        let error = set(text).unwrap_err();
        assert!(matches!(&error, Error::UnknownSetting { nearest: n, .. } if n == nearest), "{text}: {error}");
    }
    assert_eq!(set("fit.lrr=1").unwrap_err().to_string(), "fit.lrr is no setting; did you mean fit.lr?");
    // In a value that is set as a whole.
    let none = set("fit.plateau=null").unwrap();
    let error = with(&none, "fit.plateau", json!({ "factor": 0.1, "patient": 1 })).unwrap_err();
    assert!(matches!(error, Error::UnknownSetting { name, .. } if name == "fit.plateau.patient"));
}

#[test]
fn a_wrong_value_is_told_what_is_expected() {
    for (text, why) in [
        ("fit.lr=fast", "expected f32"),
        ("fit.steps=1.5", "expected u64"),
        ("fit.steps=-1", "must not be negative"),
        ("fit.lr=-0.5", "must not be negative"),
        ("fit.lr=1000", "must be from 0 to 100"),
        ("fit.steps=0", "must be at least 1"),
        ("fit.plateau.factor=2", "must be between 0 and 1"),
        ("fit.lr=1e39", "too large"),
        ("fit.lr=inf", "expected f32"),
        ("fit.lr=NaN", "expected f32"),
        ("fit.schedule=square", "expected `constant` or `cosine`"),
        ("fit=3", "expected struct ToyFit"),
        ("data.most=few", "expected usize"),
    ] {
        let error = set(text).unwrap_err();
        let name = text.split_once('=').unwrap().0;
        let Error::Setting { name: n, why: w, .. } = &error else { panic!("{text}: {error}") };
        assert!(n == name && w.contains(why), "{text}: {error}");
    }
}

#[test]
fn numbers_have_the_range_of_their_setting() {
    for (name, wrong, right) in [
        ("model.dropout", [-1.0, 1.0], [0.0, 0.9]),
        ("model.input_dropout", [-0.1, 7.0], [0.1, 0.5]),
        ("fit.lr", [-1.0, 1e9], [0.0, 1e-4]),
        ("fit.weight_decay", [-3.0, 1e9], [0.0, 0.2]),
        ("model.init_std", [1e30, 0.0], [0.02, 1.0]),
        ("fit.warmup", [5.0, -0.1], [0.0, 1.0]),
        ("data.clip_seconds", [1e-300, 1e300], [1.5, 2.0]),
        ("fit.steps", [0.0, -1.0], [1.0, 1e9]),
        ("fit.batch", [0.0, -1.0], [1.0, 64.0]),
        ("model.base.temperature_weak", [0.0, -1.0], [0.01, 5.0]),
        ("data.noise", [-1.0, -0.5], [0.0, 3.0]),
    ] {
        assert!(wrong.iter().all(|&v| out_of_range(name, v, true).is_some()), "{name}");
        assert!(right.iter().all(|&v| out_of_range(name, v, true).is_none()), "{name}");
    }
    assert!(
        out_of_range("model.max_clips", 1.8e19, false).is_some() && out_of_range("fit.seed", 1.8e19, false).is_none()
    );
    // Also in a section that is set as a whole, and in a run that was stored.
    let all = json!({ "fit": { "lr": 1.0, "plateau": { "factor": 3.0 } } });
    for name in ["", "fit", "fit.plateau"] {
        match expect_ranges(&all, name) {
            Err(Error::Setting { name, .. }) => assert_eq!(name, "fit.plateau.factor"),
            other => panic!("{other:?}"),
        }
    }
    expect_ranges(&all, "fit.lr").unwrap();
}

#[test]
fn a_run_that_goes_on_keeps_its_settings() {
    let stored = Toy::default();
    expect_same(&stored, &stored.clone()).unwrap();
    expect_same(&stored, &set("data.root=there").unwrap()).unwrap();
    for (text, name) in
        [("fit.lr=1", "fit.lr"), ("data.samples=3", "data.samples"), ("fit.plateau=null", "fit.plateau")]
    {
        match expect_same(&stored, &set(text).unwrap()) {
            Err(Error::ResumeChanges { name: changed, .. }) => assert!(changed.starts_with(name), "{changed}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    let asked = BTreeSet::from(["data.samples".to_string()]);
    let got = set("data.samples=3").unwrap();
    assert!(matches!(expect_kept(&stored, &got, &asked), Err(Error::Setting { name, .. }) if name == "data.samples"));
    expect_kept(&stored, &got, &BTreeSet::new()).unwrap();
}

#[test]
fn settings_are_listed_by_section() {
    let text = list(&Toy::default()).unwrap();
    let expected = "data     most=null root=\"here\" samples=0\n\
                    fit      lr=0.1 plateau.factor=0.5 plateau.patience=5 schedule=\"constant\" steps=10";
    assert_eq!(text, expected);
    let long = set(&format!("data.root={}", "x".repeat(120))).unwrap();
    assert_eq!(list(&long).unwrap().lines().count(), 4);
}
