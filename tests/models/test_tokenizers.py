"""Loading tokenizers with errors that help, and agreement on every id."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gradalign.demo import model_path
from gradalign.errors import ModelError, TokenizerMismatchError
from gradalign.models.checkpoints.tokenizers import check_agreement, check_ids_known, load_tokenizer
from tests.models.made_tokenizers import build


def test_demo_tokenizers_agree() -> None:
    student, strong, weak = (
        load_tokenizer(str(model_path(name))) for name in ("student", "strong", "weak")
    )
    check_agreement(student, strong, "demo:strong")
    check_agreement(student, weak, "demo:weak")
    check_agreement(student, student, "self")


def test_ids_that_only_one_side_has_are_fine_until_they_occur() -> None:
    small, large = build(plain=("<think>",)), build(plain=("<think>", "<extra>"))
    check_agreement(small, large, "large")
    check_agreement(large, small, "small")
    extra = large.convert_tokens_to_ids("<extra>")
    ids = large("a<think>")["input_ids"]
    check_ids_known(ids, small, "teacher small")
    with pytest.raises(
        TokenizerMismatchError, match=f"question q7: teacher small has no token for the id {extra}"
    ):
        check_ids_known([*ids, extra], small, "teacher small", "question q7")
    with pytest.raises(TokenizerMismatchError, match="ids 1000, 1001, 1002,"):
        check_ids_known(range(1000, 1010), large, "teacher")


def test_another_map_shows_three_ids() -> None:
    student = build(merges=[("a", "b"), ("c", "d"), ("e", "f"), ("g", "h")])
    teacher = build(merges=[("c", "d"), ("a", "b"), ("g", "h"), ("e", "f")])
    with pytest.raises(TokenizerMismatchError) as caught:
        check_agreement(student, teacher, "big+answer")
    text = str(caught.value)
    assert "teacher big+answer has another tokenizer" in text
    assert "4 ids differ" in text
    shown = re.findall(r"id (\d+) is '(\w+)' for the student and '(\w+)' for the teacher", text)
    assert len(shown) == 3
    for index, mine, theirs in shown:
        assert student.convert_ids_to_tokens(int(index)) == mine
        assert teacher.convert_ids_to_tokens(int(index)) == theirs
    assert shown[0] == ("256", "ab", "cd")


def test_one_differing_special_token_is_enough() -> None:
    student = build(special=("<|end|>", "<|turn|>"))
    teacher = build(special=("<|end|>", "<|talk|>"))
    with pytest.raises(TokenizerMismatchError, match=r"1 ids differ. id 257 is '<\|turn\|>'"):
        check_agreement(student, teacher, "t")


def test_saved_and_loaded_tokenizer_agrees_with_itself(tmp_path: Path) -> None:
    tokenizer = build(merges=[("a", "b")])
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    check_agreement(tokenizer, loaded, "loaded")
    assert loaded("ab<think>")["input_ids"] == tokenizer("ab<think>")["input_ids"]


def test_a_folder_s_tokenizer_is_kept_until_a_file_of_it_changes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        build().save_pretrained(tmp_path / name)
    first = load_tokenizer(str(tmp_path / "first"))
    assert load_tokenizer(str(tmp_path / "second")) is not first
    assert load_tokenizer(str(tmp_path / "first")) is first
    build(plain=["<tool>"]).save_pretrained(tmp_path / "first")
    changed = load_tokenizer(str(tmp_path / "first"))
    assert changed is not first
    assert len(changed) < len(first)


def test_missing_folder() -> None:
    with pytest.raises(ModelError, match=r"model folder ./nowhere does not exist"):
        load_tokenizer("./nowhere")
    with pytest.raises(ModelError, match="does not exist"):
        load_tokenizer("a/b/c")


def test_folder_without_tokenizer_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds no tokenizer files"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("content", ["", "{not json", "{}", json.dumps({"model": {"type": "X"}})])
def test_broken_tokenizer_files(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=re.escape(str(tmp_path))):
        load_tokenizer(str(tmp_path))


def test_folder_with_settings_but_no_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match=re.escape(str(tmp_path))):
        load_tokenizer(str(tmp_path))


def test_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"nobody/nothing cannot be loaded.*local cache"):
        load_tokenizer("nobody/nothing")


def test_errors_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError) as caught:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_tokenizer_without_a_vocabulary(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE(vocab={}, merges=[])).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    with pytest.raises(ModelError, match="has no vocabulary"):
        load_tokenizer(str(tmp_path))
