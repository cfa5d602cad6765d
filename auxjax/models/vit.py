"""ViT: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", arXiv 2010.11929."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from auxjax import ops
from auxjax.errors import AuxjaxError
from auxjax.layers import check_choice, check_image

# Width, layers, MLP width and heads: Table 1, and the smaller ones of DeiT (Touvron et al. 2021, arXiv 2012.12877).
VARIANTS = {
    "Ti": (192, 12, 768, 3), "S": (384, 12, 1536, 6), "B": (768, 12, 3072, 12), "L": (1024, 24, 4096, 16),
}  # fmt: skip


class SelfAttention(nn.Module):
    """Multi-head self-attention of float[B, T, D], queries, keys and values from one product (equations 5 to 8)."""

    num_heads: int
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        batch, tokens, width = x.shape
        glorot = nn.initializers.xavier_uniform()
        qkv = nn.Dense(3 * width, kernel_init=glorot, **types, name="in_proj")(x)
        query, key, value = jnp.moveaxis(qkv.reshape(batch, tokens, 3, self.num_heads, -1), 2, 0)
        attended = jax.nn.dot_product_attention(query, key, value).reshape(batch, tokens, width)
        return nn.Dense(width, kernel_init=glorot, **types, name="out_proj")(attended)


class EncoderLayer(nn.Module):
    """LayerNorm, self-attention and a shortcut; LayerNorm, MLP of GELU and a shortcut (Figure 1)."""

    num_heads: int
    mlp_width: int
    dropout_rate: float
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        glorot = nn.initializers.xavier_uniform()

        def drop(y: jax.Array, name: str) -> jax.Array:
            return ops.Dropout(self.dropout_rate, name=name)(y, deterministic=not train)

        y = nn.LayerNorm(epsilon=1e-6, **types, name="ln_1")(x)
        x = x + drop(SelfAttention(self.num_heads, **types, name="self_attention")(y), "dropout")
        y = nn.LayerNorm(epsilon=1e-6, **types, name="ln_2")(x)
        y = nn.gelu(nn.Dense(self.mlp_width, kernel_init=glorot, **types, name="mlp_1")(y), approximate=False)
        y = nn.Dense(x.shape[-1], kernel_init=glorot, **types, name="mlp_2")(drop(y, "mlp_dropout_1"))
        return x + drop(y, "mlp_dropout_2")


class ViT(nn.Module):
    """ViT-Ti, -S, -B or -L with patches of 16: float[B, H, W, C] to logits float[B, num_classes].

    Table 1; a class token, learned positions, LayerNorm before each part and after all, as torchvision's `vit_b_16`.
    Layers are `encoder_layer_0` on, each tap float[B, T, D]. `scan` makes them one scanned layer `encoder_layers` with
    stacked parameters, which compiles in a fraction of the time; `encoder_layers[i]` is the tap of layer i. H and W
    must be multiples of the patch; positions are learned for the size that the network was initialised with.
    """

    num_classes: int = 1000
    variant: str = "B"
    patch_size: int = 16
    layers: int = 0  # 0: the variant's
    scan: bool = False
    dropout_rate: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        check_choice(self, "variant", VARIANTS)
        check_image(self, x, smallest=self.patch_size)
        if x.shape[1] % self.patch_size or x.shape[2] % self.patch_size:
            raise AuxjaxError(f"ViT needs height and width in multiples of {self.patch_size} px, not {x.shape[1:3]}")
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width, published, mlp_width, heads = VARIANTS[self.variant]
        patch = (self.patch_size, self.patch_size)
        x = ops.Conv(width, patch, strides=self.patch_size, padding="VALID", **types, name="conv_proj")(x)
        x = x.reshape(x.shape[0], -1, width)
        token = self.param("class_token", nn.initializers.zeros_init(), (1, 1, width), self.param_dtype)
        x = jnp.concatenate([jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, width)), x], axis=1)
        init = nn.initializers.normal(0.02)
        x = x + self.param("pos_embedding", init, (1, x.shape[1], width), self.param_dtype).astype(x.dtype)
        x = ops.Dropout(self.dropout_rate, name="dropout")(x, deterministic=not train)
        fields: dict[str, Any] = {"num_heads": heads, "mlp_width": mlp_width, "dropout_rate": self.dropout_rate}
        count = self.layers or published
        if self.scan:
            axes: Any = {"params": 0, "intermediates": 0}
            stack = nn.scan(
                lambda layer, x, _: (layer(x, train), None), variable_axes=axes,
                split_rngs={"params": True, "dropout": True}, length=count,
            )  # fmt: skip
            x, _ = stack(EncoderLayer(**fields, **types, name="encoder_layers"), x, None)
        else:
            for i in range(count):
                x = EncoderLayer(**fields, **types, name=f"encoder_layer_{i}")(x, train)
        x = nn.LayerNorm(epsilon=1e-6, **types, name="ln")(x)[:, 0]
        # The head starts at zero, as in the paper's fine-tuning (section 3.2) and in torchvision.
        zeros = nn.initializers.zeros_init()
        return nn.Dense(self.num_classes, kernel_init=zeros, **types, name="head")(x)
