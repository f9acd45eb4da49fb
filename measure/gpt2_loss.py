"""GPT-2's loss on the whole validation split of a text, in nats per token and per character.

    python measure/gpt2_loss.py
    python measure/gpt2_loss.py --weights FOLDER --data TEXT

The split is cut into windows of --block-size tokens, and each token but the first is predicted
once. The flags are those of beyond/gpt2.py.
"""

from losses import load, loss_of_split

from common.data import Corpus, read_text
from common.device import select_device


def main() -> None:
    """Print the loss of the model that the command line names."""
    gpt2 = load("gpt2")
    config = gpt2.parse_args()
    device = select_device(config.device)
    config, model, tokenizer = gpt2.load(config)
    corpus = Corpus(read_text(config.data), tokenizer, device, config.seed)
    loss = loss_of_split(model.to(device), corpus, config.block_size)
    tokens, characters = len(corpus.splits["val"]), len(corpus.texts["val"])
    print(f"{tokens:,} tokens, {characters:,} characters")
    print(f"val loss {loss * characters / tokens:.4f} per token, {loss:.4f} per character")


if __name__ == "__main__":
    main()
