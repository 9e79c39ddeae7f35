"""Methods against independent mathematics: index loops, other libraries, plain token algebra."""

import copy
import itertools

import pytest
import torch
from torch import nn

from karst_bench.adapt.layers import AdaptedLayer
from karst_bench.adapt.merge import merge
from karst_bench.adapt.window_tokens import WindowTokens
from karst_bench.nn.affine import Affine


def kronecker_by_index(C, A, B, chunk):
    """dW[p h + a, q w + b] = sum_n C_n[p, q] (A_n B_n)[a, b], one entry at a time, in float64."""
    N, m, _ = C.shape
    height, width = A.shape[2], B.shape[2]
    dW = torch.zeros(m * height, m * width, dtype=torch.float64)
    for n, p, q, a, b in itertools.product(range(N), range(m), range(m), range(height), range(width)):
        inner = sum(A[n, chunk, a, k].double() * B[n, k, b].double() for k in range(A.shape[3]))
        dW[p * height + a, q * width + b] += C[n, p, q].double() * inner
    return dW


@torch.no_grad()
def test_karst_is_its_equation(attached, shake):
    """Eq. 3 and 4 on one block's proj and on the q, k, v chunks of its qkv, against loops over indices."""
    case = shake(attached("vit", "method=karst", "method.m=4", "method.r=2", "method.sigma=0.7"))
    for path, chunks in (("blocks.1.attn.proj", 1), ("blocks.1.attn.qkv", 3)):
        wrapper = case.model.layers[path]
        update = wrapper.deltas[0]
        dW = 0.7 * torch.cat([kronecker_by_index(update.C, update.A, update.B, c) for c in range(chunks)])
        weight, bias = wrapper.base.weight.double() + dW, wrapper.base.bias.double()
        x = torch.randn(3, weight.shape[1], dtype=torch.float64)
        y = x @ weight.T + bias
        if path.endswith("proj"):
            affine = wrapper.after[0]
            y = (1 + affine.scale.double()) * y + affine.shift.double()
        assert (wrapper(x.float()).double() - y).abs().max() < 1e-5


@torch.no_grad()
def test_rst_before_proj_keeps_its_shift(attached, shake, images):
    """z -> xs z + xb before proj: b' = b + xb W 1, which a fold of scales alone would lose."""
    case = shake(attached("vit", "method=ka", "extra=rst_scalar"))
    wrapper = case.model.layers["blocks.0.attn.proj"]
    before, after = wrapper.before[0], wrapper.after[0]
    weight = wrapper.base.weight + wrapper.deltas[0].delta(wrapper.base.weight)
    xs, xb, ps, pb = 1 + before.scale, before.shift, 1 + after.scale, after.shift
    folded_w, folded_b = wrapper.fold()
    assert torch.allclose(folded_w, ps * xs * weight, atol=1e-6)
    assert torch.allclose(folded_b, ps * (wrapper.base.bias + xb * weight.sum(1)) + pb, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("family", ["vit", "swin"])
def test_ssf_is_scale_and_shift_of_every_operation(attached, family, images):
    """Folding by hand into a copy: a convolution, a norm and a linear alike."""
    case = attached(family, "method=ssf", "method.std=0.2")
    for wrapper in case.model.layers.values():
        gamma, beta = wrapper.after[0].scale, wrapper.after[0].shift
        weight, bias = wrapper.fold()
        assert torch.allclose(weight.flatten(1) if weight.ndim > 1 else weight[:, None],
                              gamma[:, None] * wrapper.base.weight.reshape(len(gamma), -1), atol=1e-6)  # fmt: skip
        assert torch.allclose(bias, gamma * wrapper.base.bias + beta, atol=1e-6)


@torch.no_grad()
def test_fact_tk_is_a_tucker_tensor(attached, shake):
    """All 12 L slices against einsum over the whole tensor; fc1 and fc2 interleaved as published checkpoints are."""
    case = shake(attached("vit", "method=fact_tk", "method.r=4", "method.s=0.5"))
    update = case.model.layers["blocks.0.attn.qkv"].branches[0]
    U, V = update.factors.U.double(), update.factors.V.double()
    C, P = update.tucker.C.double(), update.tucker.P.double()
    T, r, d = torch.einsum("abk,kj->jab", C, P), 4, 48
    for block in range(4):
        def delta(role, block=block):
            wrapper = case.model.layers[f"blocks.{block}.{role}"]
            return wrapper.branches[0].delta(wrapper.base.weight).double()
        own = T[12 * block : 12 * block + 12]
        for j, role in ((0, "attn.qkv"), (1, "attn.qkv"), (2, "attn.qkv"), (3, "attn.proj")):
            got = delta(role)[j * d : (j + 1) * d] if role.endswith("qkv") else delta(role)
            assert torch.allclose(got, 0.5 * V @ own[j].T @ U, atol=1e-6)
        for first, role in ((4, "mlp.fc1"), (8, "mlp.fc2")):
            F = torch.zeros(r, 4 * r, dtype=torch.float64)
            for a, b, j in itertools.product(range(r), range(r), range(4)):
                F[a, b * 4 + j] = own[first + j][a, b]
            for c in range(4):
                chunk = F[:, c * r : (c + 1) * r]
                if role == "mlp.fc1":
                    assert torch.allclose(delta(role)[c * d : (c + 1) * d], 0.5 * V @ chunk.T @ U, atol=1e-6)
                else:
                    assert torch.allclose(delta(role)[:, c * d : (c + 1) * d], 0.5 * V @ chunk @ U, atol=1e-6)


@torch.no_grad()
def test_fact_tt_is_a_tensor_train(attached, shake):
    case = shake(attached("swin", "method=fact_tt", "method.r=4"))
    wrapper = case.model.layers["layers.1.blocks.0.mlp.fc1"]
    update = wrapper.branches[0]
    G, U, V = update.G.view(4, 4, 4), update.factors.U, update.factors.V
    dense = torch.cat([update.s * V @ G[c] @ U for c in range(4)])
    assert torch.allclose(update.delta(wrapper.base.weight), dense, atol=1e-5)
    same_stage = case.model.layers["layers.1.blocks.0.attn.proj"].branches[0]
    other_stage = case.model.layers["layers.2.blocks.0.attn.proj"].branches[0]
    assert same_stage.factors is update.factors and other_stage.factors is not update.factors


@torch.no_grad()
@pytest.mark.parametrize(("family", "name", "drop"), [("vit", "fact_tk", 0.0), ("swin", "fact_tt", 0.0), ("swin", "lora", 0.0)])
def test_branch_equals_its_weight(attached, shake, family, name, drop):
    """What is computed beside a layer is what is merged into it."""
    case = shake(attached(family, f"method={name}", f"method.dropout={drop}"))
    for wrapper in case.model.layers.values():
        for fn, rows in zip(wrapper.branches, wrapper.branch_rows, strict=True):
            start, stop = rows or (0, wrapper.base.out_features)
            x = torch.randn(2, wrapper.base.in_features)
            assert torch.allclose(fn(x), x @ fn.delta(wrapper.base.weight[start:stop]).T, atol=1e-4)


class TestAgainstPeft:
    """huggingface/peft on the same timm model."""

    @pytest.fixture
    def peft(self):
        return pytest.importorskip("peft")

    @torch.no_grad()
    def test_lora(self, peft, attached, tiny, images, shake):
        case = shake(attached("vit", "method=lora_all", "method.r=4", "method.s=0.5", "method.dropout=0"))
        config = peft.LoraConfig(r=4, lora_alpha=2, target_modules=["qkv", "proj", "fc1", "fc2"], exclude_modules="patch_embed.*")
        theirs = peft.get_peft_model(tiny("vit"), config).eval()
        for path, wrapper in case.model.layers.items():
            layer = theirs.base_model.model.get_submodule(path)
            layer.lora_A["default"].weight.copy_(wrapper.deltas[0].A)
            layer.lora_B["default"].weight.copy_(wrapper.deltas[0].B)
        assert torch.allclose(theirs(images), case.net(images), atol=1e-4)

    @torch.no_grad()
    def test_one_kernel_karst_is_lokr(self, peft, attached, tiny, images, shake):
        """LoKr's w1 (x) (w2_a w2_b) alpha / r is one kernel; its factorisation of 48 at 4 gives m = 4."""
        case = shake(attached("vit", "method=ka", "method.N=1", "method.m=4", "method.r=2", "method.sigma=1.5",
                              "method.sites=[proj,fc1,fc2]"))  # fmt: skip
        config = peft.LoKrConfig(r=2, alpha=3, decompose_factor=4, target_modules=["proj", "fc1", "fc2"],
                                 exclude_modules="patch_embed.*")  # fmt: skip
        theirs = peft.get_peft_model(tiny("vit"), config).eval()
        for path, wrapper in case.model.layers.items():
            layer, update = theirs.base_model.model.get_submodule(path), wrapper.deltas[0]
            for name, value in (("w1", update.C[0]), ("w2_a", update.A[0, 0]), ("w2_b", update.B[0])):
                stored = getattr(layer, f"lokr_{name}")["default"]
                assert stored.shape == value.shape
                stored.copy_(value)
        assert torch.allclose(theirs(images), case.net(images), atol=1e-4)

    @torch.no_grad()
    def test_vera(self, peft, attached, shake, tiny, images):
        """VeRA's pair is drawn differently there, so theirs is put in place; the map is the same."""
        case = shake(attached("vit", "method=vera", "method.r=8"))
        wrapper = case.model.layers["blocks.2.attn.qkv"]
        update = wrapper.deltas[0]
        dense = torch.diag(update.b) @ update.B @ torch.diag(update.d) @ update.A
        assert torch.allclose(update.delta(wrapper.base.weight[:48]), dense, atol=1e-5)
        first = case.model.layers["blocks.0.attn.qkv"].deltas[0]
        assert torch.equal(first.A, update.A), "one pair for all layers"


@torch.no_grad()
def test_vpt_is_token_concatenation(attached, tiny, images):
    """Deep and shallow, against timm's own blocks called one after the other."""
    deep = attached("vit", "method=vpt_deep", "method.p=3")
    shallow = attached("vit", "method=vpt_shallow", "method.p=3")
    net = tiny("vit")
    prompts = deep.net.blocks[0].hooks.hooks[0].prompts
    only = shallow.net.blocks[0].hooks.hooks[0].prompts.tokens

    def run(tokens_of):
        h = net._pos_embed(net.patch_embed(images))
        patches = h[:, 1:]
        cls, old = h[:, :1], None
        for i, block in enumerate(net.blocks):
            new = tokens_of(i)
            old = old if new is None else new.expand(len(h), -1, -1)
            out = block(torch.cat([cls, old, patches], dim=1))
            cls, old, patches = out[:, :1], out[:, 1:4], out[:, 4:]
        return net.head(net.norm(torch.cat([cls, patches], dim=1))[:, 0])

    assert torch.allclose(deep.net(images), run(lambda i: prompts[i].tokens), atol=1e-5)
    assert torch.allclose(shallow.net(images), run(lambda i: only if i == 0 else None), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("shifted", [False, True])
def test_window_tokens_window_by_window(tiny, shifted):
    """Each window alone: its queries see the prompts and its own tokens, with the window's bias and mask on the latter."""
    net = tiny("swin")
    block = net.layers[0].blocks[int(shifted)]
    prompts = torch.randn(3, 16)
    attn, mask = block.attn, block.attn_mask
    assert (mask is not None) == shifted
    windows = 2 * (16 if mask is None else mask.shape[0])
    x = torch.randn(windows, 16, 16)
    got = WindowTokens(attn, block, lambda: prompts, grid=lambda: (16, 16))(x, mask)
    heads, d = attn.num_heads, 16 // attn.num_heads
    bias = attn._get_rel_pos_bias()[0]
    for w in range(windows):
        tokens = torch.cat([block.norm1(prompts), x[w]])
        q, k, v = attn.qkv(tokens).view(19, 3, heads, d).permute(1, 2, 0, 3)
        scores = q[:, 3:] @ k.transpose(1, 2) / d**0.5
        scores[:, :, 3:] += bias if mask is None else bias + mask[w % len(mask)]
        y = (scores.softmax(-1) @ v).transpose(0, 1).reshape(16, 16)
        assert torch.allclose(got[w], attn.proj(y), atol=1e-5)


@torch.no_grad()
def test_repadapter_is_an_adapter_before_the_layer(attached, shake):
    case = shake(attached("vit", "method=repadapter", "method.s=0.5", "method.biases=true"))
    wrapper = case.model.layers["blocks.1.mlp.fc1"]
    adapter, x = wrapper.before[0], torch.randn(3, 48)
    hidden = x @ adapter.D.T + adapter.a
    up = torch.cat([hidden[:, 4 * g : 4 * g + 4] @ adapter.U[g].T for g in range(2)], dim=1) + adapter.b
    assert torch.allclose(wrapper(x), wrapper.base(x + 0.5 * up), atol=1e-4)
    weight, bias = wrapper.fold()
    assert torch.allclose(nn.functional.linear(x, weight, bias), wrapper(x), atol=1e-4)


@torch.no_grad()
def test_adapters_stand_where_they_should(attached, tiny, images, shake):
    """NOAH's and Pfeiffer's adapters against a block written out; AdaptFormer reads the stream before the norm, Adapter+
    the sum. The bottleneck by hand: ReLU and a tenth in AdaptFormer, CLIP's GELU in NOAH, a gain of each channel in Adapter+."""
    acts = {"adaptformer": torch.relu, "adapter_noah": lambda t: t * torch.sigmoid(1.702 * t)}
    for name in ("adapter_noah", "adapter_pfeiffer", "adaptformer", "adapter_plus"):
        case = shake(attached("vit", f"method={name}"))
        net = tiny("vit")
        h = net.norm_pre(net._pos_embed(net.patch_embed(images)))
        m = case.net.blocks[0].drop_path2.fns[0]
        block = net.blocks[0]
        z = h + block.attn(block.norm1(h))
        u = block.mlp(block.norm2(z))
        read = {"adaptformer": z, "adapter_plus": z + u}.get(name, u)
        hidden = acts.get(name, nn.functional.gelu)(read @ m.down.weight.T + m.down.bias)
        factor = {"adaptformer": 0.1}.get(name, m.gain if name == "adapter_plus" else 1.0)
        assert name != "adapter_plus" or m.gain.std() > 0
        expected = z + u + factor * (hidden @ m.up.weight.T + m.up.bias)
        assert torch.allclose(case.net.blocks[0](h), expected, atol=1e-5), name


@torch.no_grad()
def test_convpass_is_a_convolution_over_patches(attached, tiny, images, shake):
    """Patch by patch over its neighbours on the 4 x 4 grid, beside attention and beside the MLP of a block."""
    case, net = shake(attached("vit", "method=convpass", "method.s=0.5")), tiny("vit")

    def quick(z):
        return z * torch.sigmoid(1.702 * z)

    def bypass(m, x):
        z = quick(x @ m.down.weight.T + m.down.bias)
        out = torch.zeros_like(z)
        for t in range(17):
            row, column = divmod(t - 1, 4)
            for i, j in itertools.product(range(3), range(3)):
                there = t if t == 0 and i == j == 1 else 1 + 4 * (row + i - 1) + column + j - 1
                inside = t > 0 and 0 <= row + i - 1 < 4 and 0 <= column + j - 1 < 4
                if inside or (t == 0 and i == j == 1):
                    out[:, t] += z[:, there] @ m.conv.weight[:, :, i, j].T
            out[:, t] += m.conv.bias
        return 0.5 * (quick(out) @ m.up.weight.T + m.up.bias)

    block, wrapped = net.blocks[0], case.net.blocks[0]
    h = net.norm_pre(net._pos_embed(net.patch_embed(images)))
    normed = block.norm1(h)
    z = h + block.attn(normed) + bypass(wrapped.drop_path1.fns[0], normed)
    normed = block.norm2(z)
    assert torch.allclose(wrapped(h), z + block.mlp(normed) + bypass(wrapped.drop_path2.fns[0], normed), atol=1e-4)


@torch.no_grad()
def test_houlsby_stands_behind_both_halves(attached, tiny, images, shake):
    case, block = shake(attached("vit", "method=adapter_houlsby")), tiny("vit").blocks[0]
    h = torch.randn(2, 17, 48)

    def adapted(half, u):
        m = half.fns[0]
        return u + nn.functional.gelu(u @ m.down.weight.T + m.down.bias) @ m.up.weight.T + m.up.bias

    wrapped = case.net.blocks[0]
    z = h + adapted(wrapped.drop_path1, block.attn(block.norm1(h)))
    assert torch.allclose(wrapped(h), z + adapted(wrapped.drop_path2, block.mlp(block.norm2(z))), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["dtl", "dtl_plus"])
def test_dtl_block_by_block(attached, tiny, images, shake, name):
    """The history beside timm's blocks called one after the other; feedback from half of the depth on. In DTL+ it is spread:
    each channel over its k x k neighbours on the 4 x 4 grid, but not over the class token."""
    case, net = shake(attached("vit", f"method={name}")), tiny("vit")
    updates = case.net.blocks[0].hooks.hooks[0].updates

    def spread(phi):
        if name == "dtl":
            return phi
        kernel = case.net.blocks[0].hooks.hooks[0].convs["0"].weight[:, 0]  # (d, k, k)
        k, out = kernel.shape[-1], phi.clone()
        for t in range(16):
            near = [(i, j, t // 4 + i - (k - 1) // 2, t % 4 + j - (k - 1) // 2) for i, j in itertools.product(range(k), range(k))]
            out[:, 1 + t] = sum(kernel[:, i, j] * phi[:, 1 + 4 * a + b] for i, j, a, b in near if 0 <= a < 4 and 0 <= b < 4)
        return out

    x, history = net.norm_pre(net._pos_embed(net.patch_embed(images))), 0.0
    for i, block in enumerate(net.blocks):
        update = updates[str(i)].update
        history = history + x @ update.A.T @ update.B.T
        x = block(x)
        if i >= 2:
            x = x + spread(history / (1 + torch.exp(-100 * history)))
    assert torch.allclose(case.net(images), net.head(net.norm(x[:, 1:].mean(1))), atol=1e-4)


@torch.no_grad()
def test_every_fold_is_a_plain_layer(attached, shake):
    """Changes, branches, affines before and after on one layer: fold computes what forward does."""
    case = shake(attached("vit", "method=karst_code", "also=lora", "extra=rst_scalar"))
    wrapper = copy.deepcopy(case.model.layers["blocks.0.attn.qkv"]).eval()
    assert isinstance(wrapper, AdaptedLayer)
    weight, bias = wrapper.fold()
    x = torch.randn(2, 5, 48)
    assert torch.allclose(nn.functional.linear(x, weight, bias), wrapper(x), atol=1e-5)
    assert merge(case.net) is case.net


def test_two_maps_before_a_layer_are_folded_into_it_the_nearer_one_first():
    """W (g2 (g1 x + s1) + s2) + b, as where RST and RepAdapter come before one layer."""
    generator = torch.Generator().manual_seed(1)
    g1, s1, g2, s2, x = (torch.randn(4, generator=generator) for _ in range(5))
    layer = AdaptedLayer(nn.Linear(4, 3))
    for gain, shift in ((g1, s1), (g2, s2)):
        layer.before.append(Affine(nn.Parameter(gain), nn.Parameter(shift), centre=0.0))
    expected = layer.base(g2 * (g1 * x + s1) + s2)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(torch.nn.functional.linear(x, *layer.fold()), expected)
