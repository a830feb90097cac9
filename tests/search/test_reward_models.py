"""Reward models with tiny random towers, against the same arithmetic in numpy, in plain torch, and in transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_towers as tiny
import torch
from PIL import Image
from safetensors.torch import save_file

from unetscope.search.errors import SearchError
from unetscope.search.rewards import make_reward
from unetscope.search.rewards.head import load_head
from unetscope.search.rewards.pixels import CLIP_MEAN, CLIP_STD, pixels


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), np.uint8)).resize((w, h)) for w, h in sizes]


IMAGES = pictures((40, 40), (64, 40), (33, 70))
PROMPTS = ["a red castle", "dog", "a red castle"]


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    return tiny.write_clip_folder(tmp_path_factory.mktemp("clip") / "clip")


def numpy_head(tensors: dict[str, torch.Tensor], x: np.ndarray, prefix: str = "") -> np.ndarray:
    for place in (0, 2, 4, 6, 7):
        weight, bias = (tensors[f"{prefix}layers.{place}.{part}"].double().numpy() for part in ("weight", "bias"))
        x = x @ weight.T + bias
    return x[:, 0]


def test_the_head_is_five_linear_layers_without_activations(tmp_path):
    tensors, rng = tiny.head_tensors(768), np.random.default_rng(2)
    embeddings = rng.standard_normal((4, 768))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    head = load_head(tensors, tmp_path, "aesthetic")
    found = head(torch.from_numpy(embeddings).float()).squeeze(1).numpy()
    np.testing.assert_allclose(found, numpy_head(tensors, embeddings), rtol=2e-5)


def test_images_are_prepared_as_transformers_prepares_them_for_clip():
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    # Where the crop cannot be in the middle, torchvision (that the towers were trained with) and transformers differ by a pixel.
    for image in pictures((40, 40), (64, 40), (42, 63)):
        np.testing.assert_allclose(
            pixels([image], 28), processor(image, return_tensors="np")["pixel_values"], atol=1e-5
        )


def test_an_image_is_cropped_in_its_middle_or_padded_with_black():
    striped = Image.new("RGB", (80, 40), "black")
    striped.paste("red", (20, 0, 60, 40))
    raw = {fit: pixels([striped], 40, fit, (0, 0, 0), (1, 1, 1))[0] for fit in ("crop", "pad")}
    np.testing.assert_array_equal(raw["crop"], np.asarray([1, 0, 0])[:, None, None] * np.ones((3, 40, 40)))
    assert raw["pad"][:, :10].max() == 0 and raw["pad"][:, 30:].max() == 0
    assert raw["pad"][0, 20, 20] == 1 and raw["pad"][0, 20, 2] == 0
    normal = pixels([striped], 40, "crop")[0]
    np.testing.assert_allclose(normal[:, 0, 0], (np.array([1, 0, 0]) - CLIP_MEAN) / CLIP_STD, rtol=1e-5)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_aesthetic_is_the_head_on_the_unit_embedding_of_the_image(clip_folder, tmp_path, suffix):
    from transformers import CLIPModel

    tensors, path = tiny.head_tensors(24), tmp_path / f"head{suffix}"
    torch.save(tensors, path) if suffix == ".pth" else save_file(tensors, path)
    reward = make_reward({"kind": "aesthetic", "weights": str(path), "clip": str(clip_folder), "batch": 2}, tmp_path)
    reward.check()
    model = CLIPModel.from_pretrained(clip_folder).eval()
    with torch.no_grad():
        features = model.get_image_features(pixel_values=torch.from_numpy(pixels(IMAGES, 28))).pooler_output
    embeddings = features.double().numpy()
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(reward.score(IMAGES, PROMPTS), numpy_head(tensors, embeddings), rtol=1e-4)
    assert reward.is_preference


def test_pick_score_and_clip_score_are_cosines_times_their_scales(clip_folder, tmp_path):
    from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(clip_folder).eval()
    words = CLIPTokenizer.from_pretrained(clip_folder)(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(**words, pixel_values=torch.from_numpy(pixels(IMAGES, 28)))
    logits = out.logits_per_image.diagonal().numpy()
    for kind, scale in [("pick_score", 1.0), ("clip_score", 100 / float(model.logit_scale.detach().exp()))]:
        reward = make_reward({"kind": kind, "weights": str(clip_folder), "batch": 2}, tmp_path)
        reward.check()
        np.testing.assert_allclose(reward.score(IMAGES, PROMPTS), scale * logits, rtol=1e-4, atol=1e-4)


def test_rewards_that_use_the_same_clip_share_it(clip_folder, tmp_path):
    torch.save(tiny.head_tensors(24), tmp_path / "head.pth")
    first = make_reward({"kind": "clip_score", "weights": str(clip_folder)}, tmp_path)
    other = make_reward({"kind": "aesthetic", "weights": "head.pth", "clip": str(clip_folder)}, tmp_path)
    first.load()
    other.load()
    assert first._clip.model is other._clip.model


def test_a_file_with_openclips_names_gives_openclips_embeddings(tmp_path):
    reference, path = tiny.OpenClip().eval(), tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"epoch": 0, "state_dict": reference.state_dict()}, path)
    tiny.write_clip_tokenizer(tmp_path / "words")
    with torch.no_grad():
        texts = torch.cat([reference.encode_text(tiny.byte_tokens(prompt)) for prompt in PROMPTS])
        seen = {fit: reference.visual(torch.from_numpy(pixels(IMAGES, 28, fit))) for fit in ("pad", "crop")}
    cosines = {fit: torch.cosine_similarity(x, texts).numpy() for fit, x in seen.items()}
    hps = make_reward({"kind": "hps_v21", "weights": str(path), "tokenizer": "words"}, tmp_path)
    hps.check()
    np.testing.assert_allclose(hps.score(IMAGES, PROMPTS), cosines["pad"], atol=2e-6)
    clip = make_reward({"kind": "clip_score", "weights": str(path), "tokenizer": "words"}, tmp_path)
    np.testing.assert_allclose(clip.score(IMAGES, PROMPTS), 100 * cosines["crop"], atol=2e-4)


def test_image_reward_reads_the_prompt_while_it_looks_at_the_image(tmp_path):
    tensors, path = tiny.image_reward_tensors(), tmp_path / "ImageReward.pt"
    torch.save(tensors, path)
    tiny.write_bert_tokenizer(tmp_path / "bert")
    reward = make_reward(
        {"kind": "image_reward", "weights": "ImageReward.pt", "tokenizer": "bert", "batch": 2}, tmp_path
    )
    reward.check()
    index = {word: at for at, word in enumerate(tiny.BERT_WORDS)}
    tokens = [[2, *(index[word] for word in prompt.split()), 3] for prompt in PROMPTS]
    raw = tiny.image_reward(tensors, torch.from_numpy(pixels(IMAGES, 16)), tokens).numpy()
    expected = (raw - 0.16717362830052426) / 1.0333394966054072
    scores = reward.score(IMAGES, PROMPTS)
    np.testing.assert_allclose(scores, expected, rtol=2e-4, atol=2e-5)
    assert abs(scores[0] - scores[2]) > 1e-4, "the image counts"
    other = reward.score([IMAGES[0]], ["a blue dog"])
    assert abs(other[0] - scores[0]) > 1e-4, "the prompt counts"
    squashed = make_reward(
        {"kind": "image_reward", "weights": "ImageReward.pt", "tokenizer": "bert", "sigmoid": True}, tmp_path
    )
    np.testing.assert_allclose(squashed.score(IMAGES, PROMPTS), 1 / (1 + np.exp(-expected)), rtol=1e-3)


def test_weights_of_another_shape_or_without_a_layer_are_refused_by_key(clip_folder, tmp_path):
    tensors = tiny.head_tensors(24)
    torch.save(tensors | {"layers.4.weight": torch.zeros(60, 128)}, tmp_path / "shape.pth")
    torch.save({k: t for k, t in tensors.items() if k != "layers.7.bias"}, tmp_path / "lacks.pth")
    (tmp_path / "junk.pth").write_bytes(b"not a pickle")
    for name, said in [
        ("shape.pth", r"has shape \(60, 128\), expected \(64, 128\)"),
        ("lacks.pth", r"layers\.7\.bias is missing"),
        ("junk.pth", "cannot be read as weights"),
    ]:
        reward = make_reward({"kind": "aesthetic", "weights": name, "clip": str(clip_folder)}, tmp_path)
        with pytest.raises(SearchError, match=said):
            reward.load()


def test_a_pickle_that_would_run_code_is_not_loaded(clip_folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"layers.0.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(SearchError, match="cannot be read as weights"):
        make_reward({"kind": "aesthetic", "weights": "evil.pth", "clip": str(clip_folder)}, tmp_path).load()
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_that_does_not_belong_to_the_model_is_refused(tmp_path):
    torch.save(tiny.OpenClip().state_dict(), tmp_path / "clip.pt")
    words = tiny.write_clip_tokenizer(tmp_path / "words")
    text = (words / "vocab.json").read_text(encoding="utf-8")
    (words / "vocab.json").write_text(text.replace('"!": 0, ', ""), encoding="utf-8")
    reward = make_reward({"kind": "clip_score", "weights": "clip.pt", "tokenizer": "words"}, tmp_path)
    with pytest.raises(SearchError, match="name its own as tokenizer"):
        reward.load()
    with pytest.raises(SearchError, match=r"holds none of tokenizer\.json, vocab\.json"):
        make_reward({"kind": "clip_score", "weights": "clip.pt", "tokenizer": "."}, tmp_path).check()


def test_a_file_without_a_tokenizer_beside_it_gets_clips_own(tmp_path):
    reference = tiny.OpenClip(49408).eval()
    torch.save(reference.state_dict(), tmp_path / "HPS_v2.1_compressed.pt")
    reward = make_reward({"kind": "hps_v21", "weights": "HPS_v2.1_compressed.pt"}, tmp_path)
    reward.check()
    # CLIP's numbers of "a photo of a cat", as everybody's notebooks print them.
    tokens = [49406, 320, 1125, 539, 320, 2368, 49407]
    with torch.no_grad():
        text = reference.encode_text(torch.tensor([tokens + [0] * (77 - len(tokens))]))
        seen = reference.visual(torch.from_numpy(pixels(IMAGES[:1], 28)))
    expected = torch.cosine_similarity(seen, text).numpy()
    np.testing.assert_allclose(reward.score(IMAGES[:1], ["a photo of a cat"]), expected, atol=2e-6)


def test_openclips_model_is_recognised_by_its_names(tmp_path):
    save_file({"something": torch.zeros(1)}, tmp_path / "clip.safetensors")
    with pytest.raises(SearchError, match=r"visual\.conv1\.weight is missing; expected OpenCLIP's names"):
        make_reward({"kind": "clip_score", "weights": "clip.safetensors", "tokenizer": "."}, tmp_path).load()
