"""The model against OpenAI's and Hugging Face's programs, and what it promises beside."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt2jax import attention, model, ops, parameters
from gpt2jax.config import ModelConfig
from gpt2jax.errors import GPT2JaxError
from gpt2jax.model import decode_step, forward, hidden_states, prefill
from gpt2jax.ops import FEW_ROWS, layer_norm
from gpt2jax.parameters import Params
from gpt2jax.train.objective import loss_sum
from tests.helpers import (
    TINY,
    Checkpoint,
    by_path,
    count_primitive,
    distance,
    equations,
    from_foreign,
    random_tokens,
    relative_distance,
)

TOLERANCE = 1e-4  # Of logits, absolute; of gradients, relative to the largest of the tensor.

decode_jit = jax.jit(decode_step, static_argnames="config")
prefill_jit = jax.jit(prefill, static_argnames=("config", "cache_length"))
forward_jit = jax.jit(forward, static_argnames="config")


def logits_error(checkpoint: Checkpoint, params: Params | None = None, **changes: Any) -> float:
    """Distance of the logits from the expected ones, with some settings or parameters changed."""
    config = dataclasses.replace(checkpoint.config, **changes)
    tokens_BT = jnp.asarray(checkpoint.expected["tokens"], jnp.int32)
    # A function of its own each time: JAX keeps what it traced by function, whatever has been patched since.
    logits_BTV = jax.jit(lambda params: forward(params, tokens_BT, config))(params or checkpoint.params)
    return distance(logits_BTV[..., : config.n_vocab], checkpoint.expected["logits"])


def changed(params: Params, path: str, change: Callable[[jax.Array], jax.Array]) -> Params:
    return parameters.tree(lambda row: (change if row.path == path else jnp.asarray)(by_path(params)[row.path]))


def decode(checkpoint: Checkpoint, prompt_BT: np.ndarray, total: int) -> np.ndarray:
    """Prompts and their greedy continuation up to ``total`` tokens, through the cache."""
    config = checkpoint.config
    unstacked = parameters.unstack(checkpoint.params, config)
    length_B = jnp.full((len(prompt_BT),), prompt_BT.shape[1], jnp.int32)
    tokens = [jnp.asarray(column, jnp.int32) for column in prompt_BT.T]
    logits_BV, cache = prefill_jit(unstacked, jnp.stack(tokens, 1), length_B, config, total)
    for position in range(prompt_BT.shape[1], total):
        tokens.append(jnp.argmax(logits_BV[:, : config.n_vocab], axis=-1).astype(jnp.int32))
        position_B = jnp.full_like(length_B, position)
        logits_BV, cache = decode_jit(unstacked, tokens[-1], position_B, cache, config)
    return np.stack(tokens, 1)


def decode_without_cache(checkpoint: Checkpoint, prompt_BT: np.ndarray, total: int) -> np.ndarray:
    """The same by reading everything again for each token; what stands after a position cannot change it."""
    config = checkpoint.config
    tokens_BT = np.zeros((len(prompt_BT), total), np.int32)
    tokens_BT[:, : prompt_BT.shape[1]] = prompt_BT
    for position in range(prompt_BT.shape[1], total):
        logits_BTV = forward_jit(checkpoint.params, tokens_BT, config)
        tokens_BT[:, position] = logits_BTV[:, position - 1, : config.n_vocab].argmax(-1)
    return tokens_BT


class TestOpenAI:
    def test_logits_are_those_of_openais_program(self, openai_tiny: Checkpoint) -> None:
        assert logits_error(openai_tiny) < TOLERANCE

    @pytest.mark.parametrize("read", [decode, decode_without_cache])
    def test_greedy_tokens_are_those_of_openais_sampler(
        self, openai_tiny: Checkpoint, read: Callable[..., np.ndarray]
    ) -> None:
        prompt_BT, greedy_BT = openai_tiny.expected["greedy_prompt"], openai_tiny.expected["greedy"]
        total = greedy_BT.shape[1]
        if not np.array_equal(greedy_BT[:, : prompt_BT.shape[1]], prompt_BT):
            total += prompt_BT.shape[1]
        assert np.array_equal(read(openai_tiny, prompt_BT, total)[:, -greedy_BT.shape[1] :], greedy_BT)


class TestHuggingFace:
    def test_logits_are_those_of_hugging_faces_program(self, hf_tiny: Checkpoint) -> None:
        assert logits_error(hf_tiny) < TOLERANCE

    def test_blocks_of_queries_and_unrolled_layers_change_nothing(
        self, hf_tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attention, "QUERY_BLOCK", 5)
        assert logits_error(hf_tiny, scan_unroll=3) < TOLERANCE

    def test_states_are_those_of_hugging_faces_program(self, hf_tiny: Checkpoint) -> None:
        tokens_BT = jnp.asarray(hf_tiny.expected["tokens"], jnp.int32)
        states_LBTD = jax.jit(hidden_states, static_argnames="config")(hf_tiny.params, tokens_BT, hf_tiny.config)
        assert states_LBTD.shape == (4, 3, 32, 32)
        assert distance(states_LBTD[-1], hf_tiny.expected["hidden_last"]) < TOLERANCE
        assert distance(states_LBTD[-2], hf_tiny.expected["hidden_last"]) > 0.1
        embedded_BTD = hf_tiny.params["wte"][tokens_BT] + hf_tiny.params["wpe"][None]
        assert distance(states_LBTD[0], embedded_BTD) < 1e-6
        # Entry 1 is the output of block 0 before any final norm: that of a model with one block, once normed.
        shallow = dataclasses.replace(hf_tiny.config, n_layer=1)
        first = hf_tiny.params | {"h": jax.tree.map(lambda leaf: leaf[:1], hf_tiny.params["h"])}
        normed_BTD = layer_norm(states_LBTD[1], *(hf_tiny.params["ln_f"][name] for name in ("scale", "bias")), 1e-5)
        assert distance(hidden_states(first, tokens_BT, shallow)[-1], normed_BTD) < TOLERANCE

    @pytest.mark.parametrize("chunk", [31, 8])
    def test_loss_and_every_gradient_are_those_of_hugging_faces_program(self, hf_tiny: Checkpoint, chunk: int) -> None:
        config, params, expected = hf_tiny
        window_BT1 = jnp.asarray(expected["tokens"], jnp.int32)

        def mean(params: Params) -> jax.Array:
            total, count = loss_sum(params, window_BT1, config, chunk=chunk)
            return total / count

        loss, grads = jax.jit(jax.value_and_grad(mean))(params)
        assert abs(float(loss) - float(expected["loss"])) < 1e-5
        assert len([name for name in expected if name.startswith("grad/")]) == 4 + 12 * config.n_layer
        wanted = from_foreign(lambda name: expected[f"grad/transformer.{name}"], "huggingface", config)
        for path, grad in by_path(grads).items():
            assert relative_distance(grad, by_path(wanted)[path]) < TOLERANCE, path
        # Twin: the same comparison sees layers in another order, and the head's gradient left out of the table's.
        swapped = jax.tree.map(lambda leaf: leaf[::-1], grads["h"])
        assert all(error > 0.1 for error in map(relative_distance, *map(jax.tree.leaves, (swapped, wanted["h"]))))
        assert relative_distance(jax.grad(untied(mean, params))(params["wte"]), wanted["wte"]) > 0.1

    @pytest.mark.parametrize("read", [decode, decode_without_cache])
    def test_greedy_tokens_are_those_of_hugging_face(
        self, hf_tiny: Checkpoint, read: Callable[..., np.ndarray]
    ) -> None:
        greedy_BT = hf_tiny.expected["greedy"]
        assert np.array_equal(read(hf_tiny, greedy_BT[:, :5], 21), greedy_BT)


def untied(mean: Callable[[Params], jax.Array], params: Params) -> Callable[[jax.Array], jax.Array]:
    """``mean`` as a function of the token table, half of whose gradient is lost."""
    return lambda wte_VD: mean(params | {"wte": (wte_VD + jax.lax.stop_gradient(wte_VD)) / 2})


WRONG_PARAMETERS = {
    "attn/c_proj transposed": (
        "h/attn/c_proj/kernel",
        lambda w: w.reshape(w.shape[0], w.shape[3], -1).mT.reshape(w.shape),
    ),
    "query and key swapped": ("h/attn/c_attn/kernel", lambda w: w[:, :, jnp.array([1, 0, 2])]),
    "heads reversed in the values": ("h/attn/c_attn/kernel", lambda w: w.at[:, :, 2].set(w[:, :, 2, ::-1])),
    "positions shifted by one": ("wpe", lambda w: jnp.roll(w, 1, axis=0)),
    "tokens shifted by one": ("wte", lambda w: jnp.roll(w, 1, axis=0)),
    "layers reversed": ("h/mlp/c_fc/kernel", lambda w: w[::-1]),
    "final scale left out": ("ln_f/scale", jnp.ones_like),
    "a bias left out": ("h/mlp/c_proj/bias", jnp.zeros_like),
}


class TestTwins:
    """What the comparisons of logits above would say about a wrong model."""

    @pytest.mark.parametrize("fault", WRONG_PARAMETERS)
    def test_misread_parameters_are_seen(self, hf_tiny: Checkpoint, openai_tiny: Checkpoint, fault: str) -> None:
        path, change = WRONG_PARAMETERS[fault]
        for checkpoint in (hf_tiny, openai_tiny):
            assert logits_error(checkpoint, changed(checkpoint.params, path, change)) > 10 * TOLERANCE

    @pytest.mark.parametrize("epsilon", [1e-6, 1e-4])
    def test_another_epsilon_is_seen(self, hf_tiny: Checkpoint, openai_tiny: Checkpoint, epsilon: float) -> None:
        errors = [logits_error(checkpoint, layer_norm_epsilon=epsilon) for checkpoint in (hf_tiny, openai_tiny)]
        assert max(errors) > TOLERANCE, errors

    def test_another_number_of_heads_is_seen(self, hf_tiny: Checkpoint) -> None:
        params = {"h": hf_tiny.params["h"]}
        for name in ("kernel", "bias"):
            leaf = params["h"]["attn"]["c_attn"][name]
            size = (*leaf.shape[:-2], 2, 16)
            params = {"h": changed_leaf(params["h"], "c_attn", name, leaf.reshape(size))}
        kernel = hf_tiny.params["h"]["attn"]["c_proj"]["kernel"].reshape(3, 2, 16, 32)
        params = {"h": changed_leaf(params["h"], "c_proj", "kernel", kernel)}
        assert logits_error(hf_tiny, hf_tiny.params | params, n_head=2) > 10 * TOLERANCE

    def test_the_erf_gelu_is_seen(
        self, hf_tiny: Checkpoint, openai_tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gelu = jax.nn.gelu
        monkeypatch.setattr(model.jax.nn, "gelu", lambda x, approximate: gelu(x, approximate=False))
        errors = [logits_error(checkpoint) for checkpoint in (hf_tiny, openai_tiny)]
        assert max(errors) > TOLERANCE, errors

    def test_unscaled_attention_is_seen(self, hf_tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
        scaled = attention.causal_attention
        monkeypatch.setattr(attention, "causal_attention", lambda q, *rest: scaled(q * 8**0.5, *rest))
        assert logits_error(hf_tiny) > 10 * TOLERANCE

    def test_greedy_tokens_depend_on_the_position(self, hf_tiny: Checkpoint) -> None:
        shifted = hf_tiny._replace(params=changed(hf_tiny.params, "wpe", lambda w: jnp.roll(w, 1, axis=0)))
        greedy_BT = hf_tiny.expected["greedy"]
        assert not np.array_equal(decode(shifted, greedy_BT[:, :5], 21), greedy_BT)


def changed_leaf(blocks: Params, dense: str, name: str, leaf: jax.Array) -> Params:
    attn = blocks["attn"]
    return blocks | {"attn": attn | {dense: attn[dense] | {name: leaf}}}


class TestCausality:
    """By the gradient of each position's logits with respect to each position's embedding."""

    def influence(self, length: int, block: int, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
        """Largest absolute gradient [T, S] of logits at t with respect to the position embedding at s."""
        monkeypatch.setattr(attention, "QUERY_BLOCK", block)
        config = ModelConfig(n_vocab=length, n_ctx=length, n_embd=16, n_head=2, n_layer=2)
        params = parameters.init(jax.random.key(0), config)
        tokens_BT = jnp.arange(length)[None]  # All distinct.
        mix_V = jax.random.normal(jax.random.key(1), (config.padded_vocab,))

        def mixed_T(wpe_TD: jax.Array) -> jax.Array:
            return forward(params | {"wpe": wpe_TD}, tokens_BT, config)[0] @ mix_V

        gradient_TSD = jax.jit(jax.jacrev(mixed_T))(params["wpe"])
        return np.abs(np.asarray(gradient_TSD)).max(-1)

    @pytest.mark.parametrize(("length", "block"), [(11, 3), (11, 128), (130, 128)])
    def test_no_position_sees_a_later_one_and_every_position_sees_all_before_it(
        self, length: int, block: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        influence_TS = self.influence(length, block, monkeypatch)
        earlier = np.tril(np.ones((length, length), bool))
        assert (influence_TS[~earlier] == 0).all()
        assert (influence_TS[earlier] > 1e-8).all()

    def test_attention_to_later_positions_is_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        everywhere = jnp.ones((1, 1, 11, 11), bool)
        monkeypatch.setattr(
            attention, "causal_attention", lambda q, k, v, *rest: attention._attend(q, k, v, everywhere, 0.0, None)
        )
        assert (self.influence(11, 128, monkeypatch) > 0).all()


DEEP = dataclasses.replace(TINY, n_layer=4, n_embd=32, n_head=4)


def loss_and_gradient(config: ModelConfig, key: jax.Array | None = None) -> tuple[Callable[[Params], Any], Params]:
    window_BT1 = random_tokens(0, 2, 33)

    def loss(params: Params) -> jax.Array:
        return loss_sum(params, window_BT1, config, chunk=128, dropout_key=key)[0]

    return jax.value_and_grad(loss), parameters.init(jax.random.key(0), config)


class TestLargeKernels:
    """GPT-2's are multiplied as matrices (:func:`gpt2jax.ops.product`), those of these tests' models are too small."""

    @pytest.mark.parametrize("changes", [{}, {"compute_dtype": "bfloat16"}, {"remat": "dots", "dropout": 0.3}])
    def test_they_change_neither_loss_nor_gradient(
        self, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = dataclasses.replace(DEEP, **changes)
        plain, params = loss_and_gradient(config, jax.random.key(7))
        products, wanted = count_primitive("dot_general", plain, params), jax.jit(plain)(params)
        monkeypatch.setattr(ops, "LARGE_KERNEL", 0)
        large, _ = loss_and_gradient(config, jax.random.key(7))
        assert str(jax.make_jaxpr(large)(params)) != str(jax.make_jaxpr(plain)(params))
        found = jax.jit(large)(params)
        limit = 2e-2 if config.compute_dtype == "bfloat16" else 1e-5
        assert relative_distance(found, wanted) < limit
        assert count_primitive("dot_general", large, params) <= products  # A policy that kept none would add some.
        # Twin: those of other parameters.
        assert relative_distance(jax.jit(large)(parameters.init(jax.random.key(1), config)), found) > 10 * limit


@pytest.mark.parametrize("rows", [1, 4])
def test_turned_kernels_change_no_logits(hf_tiny: Checkpoint, rows: int) -> None:
    """Of prompts of fewer and of more tokens than kernels come before, and of the token after them."""
    config, tokens_BT, length_B = hf_tiny.config, random_tokens(0, rows, 20), jnp.full((rows,), 20, jnp.int32)
    assert (tokens_BT.size > FEW_ROWS) == (rows == 4)

    @jax.jit
    def read(params: Params) -> tuple[jax.Array, jax.Array]:
        first_BV, cache = prefill(params, tokens_BT, length_B, config, 24)
        second_BV, _ = decode_step(params, tokens_BT[:, 0], length_B, cache, config)
        return first_BV, second_BV

    wanted = read(parameters.unstack(hf_tiny.params, config))
    found = read(parameters.unstack(parameters.turn(hf_tiny.params), config))
    for one, other in zip(found, wanted, strict=True):
        assert distance(one, other) < 1e-5
    assert distance(found[0], wanted[1]) > 1e-2


class TestRematerialisation:
    def test_remat_and_unrolling_change_no_number(self) -> None:
        key, config = (
            jax.random.key(7),
            dataclasses.replace(DEEP, dropout=0.3),
        )  # What is computed again drops the same.
        plain, params = loss_and_gradient(config, key)
        wanted = jax.jit(plain)(params)
        changed: list[dict[str, Any]] = [{"remat": "attention"}, {"remat": "dots"}, {"scan_unroll": 4}]
        for changes in [*changed, {"remat": "full", "scan_unroll": 2}]:
            other, _ = loss_and_gradient(dataclasses.replace(config, **changes), key)
            assert relative_distance(jax.jit(other)(params), wanted) < 1e-5, changes

    def test_remat_computes_more_and_keeps_less(self) -> None:
        products, kept_bytes = {}, {}
        for policy in ("none", "attention", "dots", "full"):
            config = dataclasses.replace(DEEP, remat=policy)
            function, params = loss_and_gradient(config)
            products[policy] = count_primitive("dot_general", function, params)
            residuals = jax.eval_shape(
                lambda params, config=config: jax.vjp(
                    lambda params: jnp.sum(model.final_states(params, random_tokens(0, 2, 32), config)), params
                )[1],
                params,
            )
            kept_bytes[policy] = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))
        assert products["none"] < products["attention"]
        assert products["none"] < products["dots"] < products["full"]
        assert kept_bytes["none"] > 1.1 * kept_bytes["attention"]
        assert kept_bytes["none"] > 1.3 * kept_bytes["dots"] > 1.3 * 1.3 * kept_bytes["full"]

    @pytest.mark.parametrize(("policy", "attention"), [("dots", "auto"), ("full", "auto"), ("attention", "xla")])
    def test_what_is_computed_again_is_kept_apart_where_no_loop_does(self, policy: str, attention: str) -> None:
        """Of two equal products the compiler does one, and keeps what remat was to spare, but for a barrier."""

        def barriers(unroll: int, remat: str) -> int:
            config = dataclasses.replace(DEEP, attention=attention, scan_unroll=unroll, remat=remat)  # type: ignore[arg-type]
            function, params = loss_and_gradient(config)
            program = jax.jit(function).trace(params).lower(lowering_platforms=("cuda",)).as_text()
            return program.count("optimization_barrier")

        assert barriers(DEEP.n_layer, policy) > barriers(DEEP.n_layer, "none")
        assert barriers(3, policy) > barriers(3, "none")  # One block is beside the loop.
        assert barriers(2, policy) == barriers(2, "none")

    def test_unrolling_takes_fewer_turns(self) -> None:
        def turns(unroll: int) -> list[tuple[int, int]]:
            function, params = loss_and_gradient(dataclasses.replace(DEEP, scan_unroll=unroll))
            found = equations(jax.make_jaxpr(function)(params).jaxpr)
            return [(eqn.params["length"], eqn.params["unroll"]) for eqn in found if eqn.primitive.name == "scan"]

        assert set(turns(1)) == {(4, 1)}
        assert set(turns(2)) == {(4, 2)}

    def test_an_unknown_policy_is_refused(self) -> None:
        allowed = "'none', 'attention', 'dots' or 'full'"
        with pytest.raises(GPT2JaxError, match=rf"^model\.remat: 'some': should be {allowed}$"):
            dataclasses.replace(TINY, remat="some")  # type: ignore[arg-type]


class TestDropout:
    CONFIG = dataclasses.replace(TINY, dropout=0.2)

    def test_it_is_on_with_a_key_alone_and_a_function_of_that_key(self) -> None:
        params, tokens_BT = parameters.init(jax.random.key(0), TINY), random_tokens(0, 2, 16)
        run = jax.jit(lambda key: forward(params, tokens_BT, self.CONFIG, dropout_key=key))
        first, again, other = run(jax.random.key(0)), run(jax.random.key(0)), run(jax.random.key(1))
        assert (first == again).all()
        assert distance(first, other) > 1e-3
        plain = forward_jit(params, tokens_BT, TINY)
        assert (forward_jit(params, tokens_BT, self.CONFIG) == plain).all()
        assert distance(first, plain) > 1e-3
        # The two sequences, made equal, get masks of their own.
        twice = jax.jit(lambda key: forward(params, tokens_BT[jnp.array([0, 0])], self.CONFIG, dropout_key=key))
        assert distance(*twice(jax.random.key(0))) > 1e-3

    def test_embedding_attention_and_both_branches_are_dropped(self) -> None:
        params, tokens_BT = parameters.init(jax.random.key(0), TINY), random_tokens(0, 2, 16)

        def masks(config: ModelConfig) -> int:
            key = jax.random.key(0)
            return count_primitive(
                "random_bits", lambda params: forward(params, tokens_BT, config, dropout_key=key), params
            )

        assert masks(TINY) == 0
        assert masks(self.CONFIG) == 4
        assert masks(dataclasses.replace(self.CONFIG, scan_unroll=2)) == 4

    def test_every_layer_has_masks_of_its_own(self) -> None:
        # Branches that add 1 everywhere: the steps of the stream between layers are the masks, scaled up.
        config = dataclasses.replace(TINY, dropout=0.5, n_layer=3)
        params = jax.tree.map(jnp.zeros_like, parameters.init(jax.random.key(0), config))
        params = changed(params, "h/mlp/c_proj/bias", jnp.ones_like)
        stack, rngs = model.GPT2(config, keep_states=True), {"dropout": jax.random.key(0)}
        _, states_LBTD = stack.apply({"params": params}, random_tokens(0, 2, 16), False, rngs=rngs)
        first, second = np.diff(states_LBTD[:3], axis=0)
        assert set(np.unique(first)) == set(np.unique(second)) == {0.0, 2.0}
        # Alike in about half of 2,048 places: two equal masks, or opposite ones, would not be.
        assert 0.45 < (first == second).mean() < 0.55


class TestPrecision:
    def test_bfloat16_keeps_float32_parameters_and_logits(self, hf_tiny: Checkpoint) -> None:
        config = dataclasses.replace(hf_tiny.config, compute_dtype="bfloat16")
        window_BT1 = jnp.asarray(hf_tiny.expected["tokens"], jnp.int32)
        logits_BTV = forward_jit(hf_tiny.params, window_BT1, config)
        assert logits_BTV.dtype == jnp.float32
        error = distance(logits_BTV[..., :300], hf_tiny.expected["logits"])
        scale = np.abs(hf_tiny.expected["logits"]).max()
        assert 10 * TOLERANCE < error < 0.03 * scale
        assert model.final_states(hf_tiny.params, window_BT1, config).dtype == jnp.bfloat16
        grads = jax.jit(jax.grad(lambda params: loss_sum(params, window_BT1, config, chunk=8)[0]))(hf_tiny.params)
        assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}

    def test_matrix_products_are_in_the_compute_dtype(self) -> None:
        params = parameters.init(jax.random.key(0), TINY)

        def dtypes(name: Any) -> set[str]:
            config = dataclasses.replace(TINY, compute_dtype=name)
            found = equations(
                jax.make_jaxpr(lambda params: forward(params, random_tokens(0, 2, 8), config))(params).jaxpr
            )
            return {str(v.aval.dtype) for eqn in found if eqn.primitive.name == "dot_general" for v in eqn.invars}

        assert dtypes("bfloat16") == {"bfloat16"}
        assert dtypes("float32") == {"float32"}
        assert dtypes("auto") == {"float32"}  # On CPU.


class TestOutOfRange:
    def test_a_token_past_the_padded_vocabulary_is_nan(self, hf_tiny: Checkpoint) -> None:
        tokens_BT = jnp.array([[1, 384, 2], [1, 383, 2]], jnp.int32)
        nan_BT = np.isnan(forward_jit(hf_tiny.params, tokens_BT, hf_tiny.config)).all(-1)
        # The whole row: attention gives a later position weight 0, and 0 times NaN is NaN.
        assert nan_BT.tolist() == [[True, True, True], [False, False, False]]

    def test_a_position_past_the_context_is_nan(self, hf_tiny: Checkpoint) -> None:
        for length, past in ((32, False), (33, True)):
            logits_BTV = forward_jit(hf_tiny.params, random_tokens(0, 1, length), hf_tiny.config)
            assert np.isnan(logits_BTV[:, -1]).all() == past

    @pytest.mark.parametrize(("cache_length", "first_nan"), [(10, 10), (40, 32)])
    def test_decoding_past_the_cache_or_the_context_is_nan(
        self, hf_tiny: Checkpoint, cache_length: int, first_nan: int
    ) -> None:
        config = hf_tiny.config
        tokens_BT, length_B = random_tokens(0, 2, 8), jnp.array([8, 8], jnp.int32)
        unstacked = parameters.unstack(hf_tiny.params, config)
        _, cache = prefill_jit(unstacked, tokens_BT, length_B, config, cache_length)
        position_B = jnp.array([first_nan, first_nan - 1], jnp.int32)  # Only the first row goes too far.
        logits_BV, _ = decode_jit(unstacked, tokens_BT[:, 0], position_B, cache, config)
        assert np.isnan(logits_BV[0]).all()
        assert np.isfinite(logits_BV[1]).all()

    def test_decoding_a_token_past_the_padded_vocabulary_is_nan(self, hf_tiny: Checkpoint) -> None:
        length_B = jnp.array([8, 8], jnp.int32)
        unstacked = parameters.unstack(hf_tiny.params, hf_tiny.config)
        _, cache = prefill_jit(unstacked, random_tokens(0, 2, 8), length_B, hf_tiny.config, 10)
        logits_BV, _ = decode_jit(unstacked, jnp.array([384, 383], jnp.int32), length_B, cache, hf_tiny.config)
        assert np.isnan(logits_BV[0]).all()
        assert np.isfinite(logits_BV[1]).all()


class TestCache:
    def test_prompts_of_different_lengths_read_at_once_give_what_each_gives_alone(self, hf_tiny: Checkpoint) -> None:
        config, params, _ = hf_tiny
        lengths, new = [3, 10, 7], 4
        text_BT = random_tokens(5, 3, 20)
        alone_BTV = forward_jit(params, text_BT, config)  # No position sees a later one: each row is its own prompt.
        padded_BT = jnp.where(jnp.arange(10)[None] < jnp.array(lengths)[:, None], text_BT[:, :10], 299)
        length_B, rows = jnp.array(lengths, jnp.int32), jnp.arange(3)

        unstacked = parameters.unstack(params, config)
        logits_BV, cache = prefill_jit(unstacked, padded_BT, length_B, config, 16)
        assert distance(logits_BV, alone_BTV[rows, length_B - 1]) < 1e-5
        assert distance(logits_BV, alone_BTV[:, 9]) > 0.1  # Twin: the last padded position instead.
        assert [cache[0][name].shape for name in ("k", "v")] == [(3, 4, 16, 8)] * 2

        shifted = cache
        for step in range(new):
            position_B = length_B + step
            token_B = text_BT[rows, position_B]
            logits_BV, cache = decode_jit(unstacked, token_B, position_B, cache, config)
            assert distance(logits_BV, alone_BTV[rows, position_B]) < 1e-5
            shifted_BV, shifted = decode_jit(unstacked, token_B, position_B + 1, shifted, config)
            assert distance(shifted_BV, alone_BTV[rows, position_B]) > 1e-2

    def test_decoding_compiles_once(self, hf_tiny: Checkpoint, compiled: list[str]) -> None:
        config, params, _ = hf_tiny
        step = jax.jit(lambda params, token, at, cache: decode_step(params, token, at, cache, config))
        unstacked = parameters.unstack(params, config)
        _, cache = prefill_jit(unstacked, random_tokens(0, 2, 4), jnp.array([4, 4], jnp.int32), config, 12)
        positions = [jnp.full((2,), position, jnp.int32) for position in range(4, 8)]
        _, cache = step(unstacked, positions[0], positions[0], cache)
        assert compiled.count("jit(<lambda>)") == 1
        compiled.clear()
        for position_B in positions[1:]:
            _, cache = step(unstacked, position_B, position_B, cache)
        assert compiled == []


def test_parameters_of_another_model_are_refused(hf_tiny: Checkpoint) -> None:
    tokens_BT = random_tokens(0, 1, 4)
    with pytest.raises(GPT2JaxError, match=r"^parameters: wte has shape"):
        forward(hf_tiny.params, tokens_BT, TINY)
    with pytest.raises(GPT2JaxError, match=r"^parameters: lm_head is unknown$"):
        forward(hf_tiny.params | {"lm_head": hf_tiny.params["wte"]}, tokens_BT, hf_tiny.config)
