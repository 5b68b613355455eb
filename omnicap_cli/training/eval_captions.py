"""What the model says about a few held-out samples while it is trained, beside what it should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch

from omnicap_cli.errors import ItemError
from omnicap_cli.training.data.collating import collate
from omnicap_cli.training.data.corpus import Corpus
from omnicap_cli.training.data.examples import Example, ExampleReader, UncuttableError

_MAX_NEW_TOKENS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvalCaptions:
    """Questions, each with the answer of its record."""

    prompts: Sequence[Example]
    answers: Sequence[str]
    tokenizer: Any
    layout: Any

    @classmethod
    def of(cls, corpus: Corpus, reader: ExampleReader, processor: Any, num_samples: int) -> EvalCaptions:
        """The questions of `num_samples` samples, evenly from the whole corpus; those without pictures are left out."""
        prompts, answers = [], []
        for sample in np.linspace(0, len(corpus) - 1, min(num_samples, len(corpus))).round().astype(int).tolist():
            record = corpus.record(sample)
            try:
                example = reader.read(record, max_tokens=corpus.max_tokens)
            except (ItemError, UncuttableError):
                continue
            supervised = (example.labels >= 0).nonzero()[:, 0]
            if len(record.get("conversations") or []) == 2 and len(supervised) and (example.images or example.clips):
                end = int(supervised[0])
                ids, labels, positions = example.input_ids[:end], example.labels[:end], example.positions[:, :end]
                prompts.append(replace(example, input_ids=ids, labels=labels, positions=positions))
                answers.append(record["conversations"][1]["value"])
        return cls(prompts=prompts, answers=answers, tokenizer=processor.tokenizer, layout=reader.layout)

    @torch.inference_mode()
    def make(self, model: Any) -> list[dict[str, str]]:
        """What `model` says, one after the other, without sampling."""
        was_training = model.training
        model.eval()
        said = [self._answer(model, prompt) for prompt in self.prompts]
        model.train(was_training)
        return [
            {"id": prompt.id, "caption": caption, "reference": answer}
            for prompt, caption, answer in zip(self.prompts, said, self.answers, strict=True)
        ]

    def _answer(self, model: Any, prompt: Example) -> str:
        inputs = collate([[prompt]], pad_token_id=0)
        kept = {
            name: value for name, value in inputs.items() if name == "input_ids" or "pixel" in name or "grid" in name
        }
        ids = kept["input_ids"]
        kinds = (ids == self.layout.image_token_id).int() + 2 * (ids == self.layout.video_token_id).int()
        if prompt.clip_seconds:
            kept["second_per_grid_ts"] = torch.tensor(prompt.clip_seconds)
        output = model.generate(
            **{name: value.to(model.device) for name, value in kept.items()},
            mm_token_type_ids=kinds.to(model.device),
            attention_mask=torch.ones_like(ids).to(model.device),
            max_new_tokens=_MAX_NEW_TOKENS,
            do_sample=False,
        )
        text: str = self.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        return text
