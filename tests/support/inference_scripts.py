"""Inference scripts in the shapes that are published, with wording made up here; every expected text is by hand."""

from __future__ import annotations

from pathlib import Path

from omnicap_cli.core.prompts.catalogue import Catalogue
from omnicap_cli.core.prompts.script_import.importer import PromptImport, import_prompts
from omnicap_cli.errors import OmnicapError

# by (type, key of the script): style, language, system text, question
Expected = dict[tuple[str, str], tuple[str, str, str, str]]

TABLES_AND_CHAIN = '''\
import argparse, random, torch
from transformers import AutoProcessor, SomeModel
from somewhere import process_vision_info

BASE = "You look at pictures" " carefully. "
SYSTEM_PROMPTS = {
    "Detailed": BASE + "Say everything.",
    "Medium_CN": "你看图。",
    "Medium": f"{BASE}Say half.",
    "Detailed_Natural": ("You know "
        "photographs."),
    "mathgeo_tikz": """You draw.
Use \\\\draw[->] and "quotes".
""",
    "general_ocr": BASE + "\\tRead.",
    "Short": load_it("short"),
}
STYLES = {
    "aigc": ["Detailed", "Medium", "Medium_CN", "Short"],
    "natural": [
        "Detailed_Natural",
        "Tag_Natural",
    ],
    "mathgeo": ["mathgeo_tikz"],
    "ocr": ["general_ocr"],
}

def get_question(style):
    if style == "Detailed":
        return random.choice(["Tell me all.", "Everything, please."])
    elif style == "Medium_CN":
        return "一半。😀"
    elif style in ("Medium", "Short"):
        return "Half."
    elif style == "mathgeo_tikz":
        return r"Give \\LaTeX {x}."
    elif style in ["general_ocr"]:
        answer = "Read it."
        return answer
    if style == "Detailed_Natural":
        return "Say what the photograph shows."

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--image_type", default="aigc")
    args = parser.parse_args()
    if args.device == "cuda":
        model = SomeModel.from_pretrained("x")
    else:
        raise SystemExit("no device")
    processor = AutoProcessor.from_pretrained("x")
    for style in STYLES[args.image_type]:
        system_prompt = SYSTEM_PROMPTS[style]
        question = get_question(style)
        messages = [
            {"role": "system", "content": system_prompt},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},
        ]
        prompt = processor.apply_chat_template(messages, tokenize=False)
        print("asked: " + question)
        print(model.generate(**processor(text=[prompt])))

if __name__ == "__main__":
    main()
'''
TABLES_AND_CHAIN_TEXTS: Expected = {
    ("aigc", "Medium"): ("medium", "en", "You look at pictures carefully. Say half.", "Half."),
    ("aigc", "Medium_CN"): ("medium", "zh", "你看图。", "一半。😀"),
    ("natural", "Detailed_Natural"): (
        "detailed",
        "en",
        "You know photographs.",
        "Say what the photograph shows.",
    ),
    ("mathgeo", "mathgeo_tikz"): (
        "tikz",
        "en",
        'You draw.\nUse \\draw[->] and "quotes".\n',
        "Give \\LaTeX {x}.",
    ),
    ("ocr", "general_ocr"): ("text", "en", "You look at pictures carefully. \tRead.", "Read it."),
}

PAIRS = """\
SYSTEM_DETAILED = "S detailed"
SYSTEM_DRAWN = "S drawn\\n"
QUESTION_DETAILED = "Q detailed"
QUESTION_DRAWN = "Q drawn"
STYLES = {"aigc": ["Detailed", "Detailed_CN"], "gui": ["gui"], "chart": ["chart_markdwon"]}

def prompts_of(selected):
    if selected == "Detailed":
        return SYSTEM_DETAILED, QUESTION_DETAILED
    elif selected == "Detailed_CN":
        return SYSTEM_DETAILED, "Q 详细"
    if selected == "gui":
        return SYSTEM_DRAWN, QUESTION_DETAILED
    elif selected == "chart_markdwon":
        return SYSTEM_DRAWN, QUESTION_DRAWN

def ask(path, image_type):
    lists_by_type = {"aigc": STYLES["aigc"], "gui": STYLES["gui"]}
    for key in lists_by_type.get(image_type.lower(), []):
        system_prompt, question = prompts_of(key)
        send({"role": "system", "content": system_prompt}, {"role": "user", "content": question})
        print(f"asked for {key}")
"""
PAIRS_TEXTS: Expected = {
    ("aigc", "Detailed"): ("detailed", "en", "S detailed", "Q detailed"),
    ("aigc", "Detailed_CN"): ("detailed", "zh", "S detailed", "Q 详细"),
    ("gui", "gui"): ("caption", "en", "S drawn\n", "Q detailed"),
    ("chart", "chart_markdwon"): ("markdown", "en", "S drawn\n", "Q drawn"),
}

NESTED = """\
receipt = {"total": ("S receipt", "Q receipt"), "total_CN": ("S 收据", "Q 收据")}
PROMPTS = {
    "aigc": {
        "Detailed": ("S aigc detailed", "Q aigc detailed"),
        "Short": ["S aigc short", "Q aigc short"],
        "Short_CN": {"system": "S 短句", "question": "Q 短句"},
    },
    "Natural": {
        "Detailed": ("S natural detailed", "Q natural detailed"),
        "short": {"system_prompt": "S natural short", "user": "Q natural short"},
        "MEDIUM_NATURAL": ("S natural medium", "Q natural medium"),
    },
    "receipt": receipt,
    "ocr": {"pdf_ocr": ("S page", "Q page"), "stamp": ("S stamp", "Q stamp")},
    "gui": {"gui_CN": ("S 界面", "Q 界面")},
    "chart": {"caption": {"en": ("S chart", "Q chart"), "zh": ("S 图表", "Q 图表")}},
}
def ask(image_type, style):
    system_prompt, question = PROMPTS[image_type][style]
"""
NESTED_TEXTS: Expected = {
    ("aigc", "Detailed"): ("detailed", "en", "S aigc detailed", "Q aigc detailed"),
    ("aigc", "Short"): ("short", "en", "S aigc short", "Q aigc short"),
    ("aigc", "Short_CN"): ("short", "zh", "S 短句", "Q 短句"),
    ("natural", "Detailed"): ("detailed", "en", "S natural detailed", "Q natural detailed"),
    ("natural", "Detailed_Natural"): ("detailed", "en", "S natural detailed", "Q natural detailed"),
    ("natural", "short"): ("short", "en", "S natural short", "Q natural short"),
    ("natural", "MEDIUM_NATURAL"): ("medium", "en", "S natural medium", "Q natural medium"),
    ("receipt", "total"): ("total", "en", "S receipt", "Q receipt"),
    ("receipt", "total_CN"): ("total", "zh", "S 收据", "Q 收据"),
    ("ocr", "pdf_ocr"): ("markdown", "en", "S page", "Q page"),
    ("ocr", "stamp"): ("stamp", "en", "S stamp", "Q stamp"),
    ("gui", "gui_CN"): ("caption", "zh", "S 界面", "Q 界面"),
    ("chart", "caption"): ("caption", "en", "S chart", "Q chart"),
    ("chart", "chart_caption_CN"): ("caption", "zh", "S 图表", "Q 图表"),
}

CHAIN = '''\
def run(model, image, image_type, style, max_new_tokens=10):
    system_prompt = "You are general."
    if image_type == "chart":
        if style == "chart_markdwon":
            system_prompt = "S data"
            question = "Q data"
        elif style == 'chart_caption':
            question = """Q
caption"""
        elif style == 'chart_caption_CN':
            question = "Q 图表"
    elif image_type == 'gui':
        question = "Q screen " + 'tail'
    elif image_type == 'table':
        if style == "table_latex":
            question = ask_user(style)
    else:
        raise ValueError(image_type)
    return model.chat(image, system_prompt, question)
'''
CHAIN_TEXTS: Expected = {
    ("chart", "chart_markdwon"): ("markdown", "en", "S data", "Q data"),
    ("chart", "chart_caption"): ("caption", "en", "You are general.", "Q\ncaption"),
    ("chart", "chart_caption_CN"): ("caption", "zh", "You are general.", "Q 图表"),
    ("gui", "gui"): ("caption", "en", "You are general.", "Q screen tail"),
}

MATCH = """\
HEAD = "Head. "
ALL = HEAD + "All of it"

class Captioner:
    systems = {"Detailed": "S all", "Detailed_CN": "S 全部", "Tag": "S tags", "gui": "S screen"}

    def question_for(self, style):
        match style:
            case "Detailed" | "Detailed_CN":
                return ALL
            case "Tag":
                return "tags\\n  and more\\n"
            case "gui":
                return "Screen: all"
            case _:
                raise ValueError(style)

    async def ask(self, style, image):
        return await self.client.chat(
            {"role": "system", "content": [{"type": "text", "text": self.systems[style]}]},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": self.question_for(style)}]},
        )
"""
MATCH_TEXTS: Expected = {
    ("aigc", "Detailed"): ("detailed", "en", "S all", "Head. All of it"),
    ("aigc", "Detailed_CN"): ("detailed", "zh", "S 全部", "Head. All of it"),
    ("aigc", "Tag"): ("tag", "en", "S tags", "tags\n  and more\n"),
    ("gui", "gui"): ("caption", "en", "S screen", "Screen: all"),
}

BY_TYPE = """\
NATURAL, OCR = "natural", "ocr"
STYLES_OF = {NATURAL: ("Detailed_Natural", "Short_Natural"), OCR: ("poster_ocr", "barcode")}
SYSTEMS = {NATURAL: "S photographs", OCR: "S text"}
QUESTIONS = {"Detailed_Natural": "Q long", "Short_Natural": "Q short", "poster_ocr": "Q poster", "barcode": "Q bars"}

def ask(client, image_type):
    for style in STYLES_OF[image_type]:
        text = QUESTIONS[style]
        client.chat({"role": "system", "content": SYSTEMS[image_type]}, {"role": "user", "content": text})
"""
BY_TYPE_TEXTS: Expected = {
    ("natural", "Detailed_Natural"): ("detailed", "en", "S photographs", "Q long"),
    ("natural", "Short_Natural"): ("short", "en", "S photographs", "Q short"),
    ("ocr", "poster_ocr"): ("poster", "en", "S text", "Q poster"),
    ("ocr", "barcode"): ("barcode", "en", "S text", "Q bars"),
}

SHAPES = {
    "tables-and-chain": (TABLES_AND_CHAIN, TABLES_AND_CHAIN_TEXTS),
    "pairs": (PAIRS, PAIRS_TEXTS),
    "nested": (NESTED, NESTED_TEXTS),
    "chain": (CHAIN, CHAIN_TEXTS),
    "match": (MATCH, MATCH_TEXTS),
    "by-type": (BY_TYPE, BY_TYPE_TEXTS),
}


def write_script(folder: Path, source: str | bytes, name: str = "upstream.py") -> Path:
    path = folder / name
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    return path


def import_script(folder: Path, source: str | bytes) -> tuple[Catalogue, PromptImport]:
    """The catalogue that the file of an import makes, and the import itself."""
    found = import_prompts(write_script(folder, source))
    return Catalogue.load(write_script(folder, found.toml, "out.toml")), found


def problems_of(folder: Path, source: str | bytes) -> list[str]:
    """What is said of a script, without the folder of its name."""
    try:
        found = import_prompts(write_script(folder, source)).problems
    except OmnicapError as error:
        first, *rest = error.message.split("\n  ")
        assert first.endswith("no prompt in it is understood")
        found = tuple(rest)
    return [problem.removeprefix(f"{folder}/") for problem in found]


def texts_of(folder: Path, source: str | bytes, key: str, kind: str = "aigc") -> tuple[str, str]:
    catalogue, _ = import_script(folder, source)
    (prompt,) = catalogue.select(kind, [key], "en")
    return prompt.system, prompt.user
