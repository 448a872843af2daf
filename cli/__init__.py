def main() -> int:
    from rejoinder.rules import model
    print(model.Ruleset())
    return 0
