//! `gemma2 bench`, on the demo model. No test here looks at how fast anything was.

use crate::util::Folder;

#[test]
fn json_has_the_fields_of_llama_bench_and_equal_arithmetic_has_equal_hashes() {
    let folder = Folder::new();
    let rows = |isa: &str| -> Vec<serde_json::Value> {
        let args = ["bench", "-p", "20", "-n", "6", "-r", "2", "-t", "1,2", "-o", "json", "--isa", isa];
        serde_json::from_str(&folder.run(&args).expect(0).stdout).expect("JSON")
    };
    let scalar = rows("scalar");
    assert_eq!(scalar.len(), 4, "a prefill and a decode row for each number of threads");
    for (row, (n_prompt, n_gen, n_threads)) in scalar.iter().zip([(20, 0, 1), (0, 6, 1), (20, 0, 2), (0, 6, 2)]) {
        assert_eq!((&row["n_prompt"], &row["n_gen"]), (&n_prompt.into(), &n_gen.into()));
        assert_eq!(row["n_threads"], n_threads);
        assert_eq!(row["samples_ts"].as_array().expect("samples").len(), 2);
        assert!(row.as_object().expect("an object").contains_key("build_commit"));
        assert!(row["avg_ts"].as_f64().expect("a rate") > 0.0);
        assert_eq!(row["weight_bytes_per_s"].is_null(), n_gen == 0);
    }
    for hash in ["token_hash", "logits_hash"] {
        assert_eq!(scalar[1][hash], scalar[3][hash], "threads do not change the arithmetic");
    }
    for (flag, is_interleaved) in [("-nr", false), ("--repack", true)] {
        let rows = folder.run(&["bench", "-p", "20", "-n", "0", "-r", "1", flag, "-o", "json"]).expect(0).stdout;
        let rows: serde_json::Value = serde_json::from_str(&rows).expect("JSON");
        assert_eq!(rows[0]["repack"], is_interleaved);
        assert_eq!(rows[0]["logits_hash"], scalar[0]["logits_hash"], "nor does how the rows lie");
    }
    assert_ne!(scalar[0]["logits_hash"], scalar[1]["logits_hash"], "other logits, another hash");
    let widest = gemma2::kernels::Kernels::get().isa().to_string();
    assert_eq!(scalar[1]["token_hash"], rows(&widest)[1]["token_hash"], "nor does the instruction set");
}

#[test]
fn a_table_names_each_workload_once_and_zero_leaves_one_out() {
    let folder = Folder::new();
    let both = folder.run(&["bench", "-p", "8", "-n", "4", "-r", "1"]).expect(0).stdout;
    assert!(both.contains("\npp8 ") && both.contains("\ntg4 "), "{both}");
    let one = folder.run(&["bench", "-p", "0", "-n", "4", "-r", "1", "-o", "md"]).expect(0).stdout;
    assert!(!one.contains("pp0") && one.contains("| tg4 "), "{one}");
}

#[test]
fn sequences_side_by_side_make_the_tokens_they_make_alone() {
    let folder = Folder::new();
    let args = ["bench", "-p", "0", "-n", "5", "-r", "1", "--parallel", "1,3,9", "-o", "json"];
    let rows: Vec<serde_json::Value> = serde_json::from_str(&folder.run(&args).expect(0).stdout).expect("JSON");
    let n_parallel: Vec<_> = rows.iter().map(|row| row["n_parallel"].as_u64().expect("a number")).collect();
    assert_eq!(n_parallel, [1, 3, 9]);
    // The hash is the first sequence's.
    assert!(rows.iter().all(|row| row["logits_hash"] == rows[0]["logits_hash"]), "{rows:#?}");
    folder.run(&["bench", "--parallel", "0"]).expect(2);
}
