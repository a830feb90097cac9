"""The traces: what the pictures are drawn from."""

from dataclasses import replace
from itertools import pairwise

import pytest
from places import UNET_LABELS, place

from unetscope.checkpoints.families import family_of, layout
from unetscope.diagrams.graph import architecture_graph, read_graph, write_graph

FAMILIES = ("sd1", "sd2", "sdxl", "sdxl_refiner")
# Published counts, and those of the built models.
PARAMETERS = {"sd1": 859_520_964, "sd2": 865_910_724, "sdxl": 2_567_463_684}
TENSORS = {"sd1": 686, "sd2": 686, "sdxl": 1680}
SKIPS = {"sd1": 12, "sd2": 12, "sdxl": 9, "sdxl_refiner": 12}


@pytest.mark.parametrize("family", PARAMETERS)
def test_parameters_and_tensors_are_as_many_as_published(family):
    graph = architecture_graph(family)
    assert graph.params == PARAMETERS[family]
    assert len(graph.tensors) == TENSORS[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_of_the_single_file_layout_is_held_by_exactly_one_node_with_its_shape(family):
    graph = architecture_graph(family)
    held = [key for node in graph.nodes for key, _ in node.tensors]
    expected = {k: s.shape for k, s in layout(family).items() if k.startswith("model.diffusion_model.")}
    assert len(held) == len(set(held))
    assert graph.tensors == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_every_node_has_the_label_of_its_tensors(family):
    for node in architecture_graph(family).nodes:
        assert {place(key).label for key, _ in node.tensors} <= {node.label}
        assert node.label in (*UNET_LABELS[family], "")
        assert node.label or node.unit.startswith(("input ", "output "))


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_unique_and_edges_join_nodes_that_exist(family):
    graph = architecture_graph(family)
    ids = {node.id for node in graph.nodes}
    assert len(ids) == len(graph.nodes)
    assert {end for edge in graph.edges for end in edge} <= ids


@pytest.mark.parametrize("family", FAMILIES)
def test_skip_connections_are_in_k_to_its_partner_and_no_others(family):
    edges = architecture_graph(family).block_edges()
    skips = {(a, b) for a, b in edges if a.startswith("IN") and b.startswith("OUT")}
    ins = [x for x in UNET_LABELS[family] if x.startswith("IN")]
    assert skips == {(x, family_of(family).skip_partner(x)) for x in ins}
    assert len(skips) == SKIPS[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_chain_is_whole_from_latent_to_prediction(family):
    edges = set(architecture_graph(family).block_edges())
    chain = [x for x in UNET_LABELS[family] if not x.endswith(("EMBED", "EMB"))]
    chain = ["input latent", *chain, "output latent"]
    assert set(pairwise(chain)) <= edges


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_else_joins_two_blocks_of_the_chain(family):
    chain = [x for x in UNET_LABELS[family] if not x.endswith(("EMBED", "EMB"))]
    within = {(a, b) for a, b in architecture_graph(family).block_edges() if a in chain and b in chain}
    assert len(within) == len(chain) - 1 + SKIPS[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_time_feeds_the_blocks_with_resnets_and_text_those_with_attention(family):
    graph = architecture_graph(family)
    edges = graph.block_edges()
    keys = list(graph.tensors)
    resnets = {place(k).label for k in keys if ".emb_layers." in k}
    attention = {place(k).label for k in keys if ".attn2.to_k." in k}
    assert {b for a, b in edges if a == "TIME_EMBED"} == resnets
    assert {b for a, b in edges if a == "input text"} == attention
    assert (("LABEL_EMB", "TIME_EMBED") in edges) == ("LABEL_EMB" in UNET_LABELS[family])


def test_a_trace_written_and_read_again_is_the_same(tmp_path):
    graph = architecture_graph("sd1")
    write_graph(graph, tmp_path / "t.json")
    assert read_graph(tmp_path / "t.json") == replace(graph)


@pytest.mark.long
def test_the_committed_trace_is_what_diffusers_and_torchview_say_today():
    pytest.importorskip("diffusers")
    pytest.importorskip("torchview")
    import subprocess
    import sys

    # In a process of its own, since tracing replaces functions of torch.
    code = (
        "from unetscope.diagrams.trace import trace; from unetscope.diagrams.graph import architecture_graph as a;"
        "t, g = trace('sd1'), a('sd1');"
        "assert t.tensors == g.tensors and set(t.block_edges()) == set(g.block_edges());"
        "assert set(t.unit_edges()) == set(g.unit_edges())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("family", FAMILIES)
def test_module_paths_and_keys_go_together_as_in_diffusers_own_converter(family):
    single_file = pytest.importorskip("diffusers.loaders.single_file_utils")
    from unetscope.checkpoints.families.diffusers import unet_config

    config = {"class_embed_type": None, "addition_embed_type": None, **unet_config(family)}
    graph = architecture_graph(family)
    # The converter moves values from one name to the other; here the values are the old names.
    converted = single_file.convert_ldm_unet_checkpoint({key: key for key in graph.tensors}, config)
    ours = {
        f"{node.module}.{key.rpartition('.')[2]}": key.removeprefix("model.diffusion_model.")
        for node in graph.nodes
        for key, _ in node.tensors
    }
    assert {name: key.removeprefix("model.diffusion_model.") for name, key in converted.items()} == ours
