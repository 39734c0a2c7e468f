"""SASRec: self-attentive sequential recommendation (Kang and McAuley, 2018, arXiv 1808.09781).

Item embeddings, scaled by √dim, plus position embeddings (their equation 1) go through blocks of causal
self-attention (equations 2 to 5) and a position-wise feed-forward network (equation 6)::

    x ← x + Dropout(Attention(LayerNorm(x), x, x)),        x ← x + Dropout(FFN(LayerNorm(x))),

and a last LayerNorm. Positions count from the newest interaction backwards, which is what the published left padding
comes to. The published loss tells the next item from one random other item; here it is the same cross-entropy over
the whole catalogue as every retriever's, without which SASRec is undersold (Klenitskiy and Vasilev, 2023).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llamarec_core.retrieval.recommender import HEADS, SequentialRecommender
from llamarec_core.settings import RetrieverSettings


class SASRec(SequentialRecommender):
    """The sequential recommender of Kang and McAuley (2018), trained on the whole catalogue."""

    def __init__(self, n_items: int, settings: RetrieverSettings):
        super().__init__(n_items, settings)
        self.positions = nn.Embedding(settings.max_length, settings.dim)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(
            CausalBlock(settings.dim, heads=HEADS, dropout=settings.dropout) for _ in range(settings.blocks)
        )
        self.layer_norm = nn.LayerNorm(settings.dim)
        self._initialise()

    def forward(self, sequences: Tensor) -> Tensor:
        """Read whole histories, (batch, length) to (batch, length, dim); see the base class.

        Attention looks back only, so that padding on the right cannot reach a real position and no mask is needed.
        """
        dim = self.embedding.embedding_dim
        lengths = (sequences > 0).sum(1, keepdim=True)  # (batch, 1)
        age = lengths - 1 - torch.arange(sequences.shape[1], device=sequences.device)  # (batch, length), newest is 0
        x = self.dropout(self.embedding(sequences) * dim**0.5 + self.positions(age.clamp(min=0)))
        for block in self.blocks:
            x = block(x)
        return self.layer_norm(x)


class CausalBlock(nn.Module):
    """Causal multi-head self-attention and a feed-forward network, each with LayerNorm before and residual after."""

    def __init__(self, dim: int, *, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out_projection = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, length, dim) to the same shape."""
        query = self._split(self.query(self.attention_norm(x)))  # (batch, heads, length, dim / heads)
        key, value = map(self._split, self.key_value(x).chunk(2, dim=-1))
        probability = self.dropout.p if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=probability, is_causal=True)
        x = x + self.dropout(self.out_projection(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.feed_forward(x))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
