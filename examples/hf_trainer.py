"""Q-SFT of a local model folder with transformers.Trainer: quantize to INT4, train scales and codes, save them.

python examples/hf_trainer.py MODEL_FOLDER TRAINING.jsonl OUT
"""

import sys
from pathlib import Path

from bitsmith_core.spec import DiodeMix as Settings
from bitsmith_engine.calibrate.start import round_base, start_weights
from bitsmith_engine.data.examples import load_examples
from bitsmith_engine.models.opening import open_base
from bitsmith_engine.nn.assembly import load_quantized
from bitsmith_engine.nn.swap import attach_sink, quant_linears
from bitsmith_engine.optim.hf import HFDiodeMix, SaveCodes, lr_scheduler
from bitsmith_engine.optim.schedule import Schedule
from bitsmith_engine.ports import Silent
from bitsmith_engine.runtime import choose_runtime
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

BATCH, ACCUMULATION, EPOCHS = 4, 2, 1


def main(model_folder: Path, training_file: Path, out: Path) -> None:
    runtime = choose_runtime("auto")
    base = open_base(model_folder)
    examples = load_examples(training_file, base.tokenizer, max_length=256, observer=Silent())

    parameters = round_base(base, 4, runtime)
    model = load_quantized(base, parameters, runtime)

    steps = EPOCHS * -(-len(examples) // (BATCH * ACCUMULATION))
    optimizer = HFDiodeMix(
        parameters,
        Settings(mode="residual"),
        Schedule(steps=steps, warmup_fraction=0.1),
        anchors=[layer.anchor for layer in quant_linears(model)],
        seed=0,
        float_weight=start_weights(base, parameters, "rtn"),
    )
    attach_sink(model, optimizer)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(out),
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=ACCUMULATION,
            max_grad_norm=0.0,  # there is no gradient to clip: layers hand it to the optimizer inside backward
            use_cpu=runtime.device.type == "cpu",
            logging_steps=1,
            report_to=[],
        ),
        train_dataset=[
            {
                "input_ids": list(example.ids),
                "attention_mask": [1] * len(example.ids),
                "labels": [token if mark else -100 for token, mark in zip(example.ids, example.learned, strict=True)],
            }
            for example in examples
        ],
        data_collator=DataCollatorForSeq2Seq(base.tokenizer),
        optimizers=(optimizer, lr_scheduler(optimizer)),
        callbacks=[SaveCodes(parameters)],
    )
    trainer.train()
    assert optimizer.report is not None
    print(f"{optimizer.report.total_flips} codes moved; codes.safetensors and quantization.json are in {out}")  # noqa: T201


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
