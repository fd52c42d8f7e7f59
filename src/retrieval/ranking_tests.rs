use super::*;
use crate::kernels::testing::{gpus, noise};

/// Few different scores: many ties.
fn matrix(n: usize, m: usize, seed: u64) -> Array {
    Array::new([n, m], noise(n * m, seed).iter().map(|v| (v * 5.0).round() * 0.25).collect::<Vec<_>>()).unwrap()
}

/// Captions of a video in consecutive rows.
fn owners(captions: &[usize]) -> Vec<u32> {
    captions.iter().zip(0..).flat_map(|(&n, video)| std::iter::repeat_n(video, n)).collect()
}

#[test]
fn counts_equal_the_host_twin() {
    for gpu in gpus() {
        for captions in [vec![1], vec![1; 7], vec![3, 1, 4], vec![2; 20], (0..45).map(|i| 1 + i % 4).collect()] {
            let owners = owners(&captions);
            let (n, m) = (owners.len(), captions.len());
            let scores = matrix(n, m, n as u64);
            let host = Scores::grouped(scores.clone(), &captions).unwrap();
            for tile in [TILE, (16, 8), (5, 12), (1, 4)] {
                let tiles = Tiles { tile, ..Tiles::new(&gpu, Source::Matrix(&scores), &owners).unwrap() };
                let ranks = tiles.ranks().unwrap();
                assert_eq!(ranks.text_to_video, host.text_to_video(), "{n} {m} {tile:?}");
                assert_eq!(ranks.video_to_caption, host.video_to_caption(), "{n} {m} {tile:?}");
                assert_eq!(tiles.video_to_text().unwrap(), host.video_to_text(), "{n} {m} {tile:?}");
            }
        }
    }
}

#[test]
fn embeddings_rank_as_their_scores_do() {
    for gpu in gpus() {
        let (captions, d) = ([2, 1, 3, 1, 1, 2, 1, 5, 1, 1, 1], 24);
        let ordered = owners(&captions);
        // Captions in another order than their videos, as encoding all of them gives.
        let owners: Vec<u32> = (0..ordered.len()).map(|i| ordered[i * 7 % ordered.len()]).collect();
        let (n, m) = (owners.len(), captions.len());
        let texts = Array::new([n, d], noise(n * d, 1)).unwrap();
        let mut videos = Array::new([m, d], noise(m * d, 2)).unwrap();
        // The last video equals the first: a tie that tiles must not break.
        videos.data_mut().copy_within(0..d, (m - 1) * d);
        let on_gpu = (Tensor::from_array(&gpu, &texts).unwrap(), Tensor::from_array(&gpu, &videos).unwrap());
        for source in [Source::Embeddings(&texts, &videos), Source::Tensors(&on_gpu.0, &on_gpu.1)] {
            for tile in [TILE, (4, 4), (7, 8)] {
                let tiles = Tiles { tile, ..Tiles::new(&gpu, source, &owners).unwrap() };
                let scores = tiles.to_scores().unwrap();
                assert!((0..n).all(|i| scores.matrix().row(i)[0] == scores.matrix().row(i)[m - 1]), "{tile:?}");
                let ranks = tiles.ranks().unwrap();
                assert_eq!(ranks.video_to_caption, scores.video_to_caption());
                assert_eq!(tiles.video_to_text().unwrap(), scores.video_to_text());
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by_key(|&text| owners[text]);
                let host = scores.text_to_video();
                for (at, text) in order.into_iter().enumerate() {
                    let got = (ranks.text_to_video.greater[text], ranks.text_to_video.equal[text]);
                    assert_eq!(got, (host.greater[at], host.equal[at]));
                }
            }
        }
    }
}

#[test]
fn non_finite_scores_are_counted_over_all_tiles() {
    for gpu in gpus() {
        let mut scores = matrix(30, 20, 3);
        for (row, column, value) in [(7, 13, f32::NAN), (7, 2, f32::INFINITY), (29, 19, f32::NEG_INFINITY)] {
            scores.data_mut()[row * 20 + column] = value;
        }
        let owners: Vec<u32> = (0..30).map(|i| i % 20).collect();
        for tile in [TILE, (8, 8)] {
            let tiles = Tiles { tile, ..Tiles::new(&gpu, Source::Matrix(&scores), &owners).unwrap() };
            match tiles.ranks() {
                Err(Error::NonFinite { place, count, .. }) => {
                    assert_eq!((place.as_str(), count), ("row 7, column 2", 3))
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    for gpu in gpus() {
        let (scores, texts, videos) = (matrix(3, 2, 1), matrix(3, 4, 1), matrix(2, 5, 1));
        let flat = Array::zeros([3]);
        let new = |source, owners| Tiles::new(&gpu, source, owners).map(|_| ());
        assert!(matches!(new(Source::Matrix(&scores), &[0, 1]), Err(Error::Shape { argument: "texts", .. })));
        assert!(matches!(new(Source::Matrix(&flat), &[0]), Err(Error::Shape { argument: "source", .. })));
        let wide = new(Source::Embeddings(&texts, &videos), &[0, 0, 1]);
        assert!(matches!(wide, Err(Error::ShapeMismatch { .. })));
        for owners in [[0, 1, 2], [0, 0, 0]] {
            let tiles = Tiles::new(&gpu, Source::Matrix(&scores), &owners).unwrap();
            assert!(matches!(tiles.ranks(), Err(Error::Argument { .. })));
            assert!(tiles.to_scores().is_err());
        }
        let none = Array::zeros([0, 0]);
        assert_eq!(
            Tiles::new(&gpu, Source::Matrix(&none), &[]).unwrap().ranks().unwrap().text_to_video,
            Counts::default()
        );
    }
}
