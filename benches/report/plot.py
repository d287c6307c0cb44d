"""Plots of the report, as SVG."""

from html import escape

WIDTH, LEFT, ROW, TOP = 760, 250, 30, 56
COLOURS = {True: "#2f7d5b", False: "#b4532a", None: "#5b6b82"}


def ratios(file, title, figures):
    """A bar for each ratio, with the range of the runs and the target."""
    scale = (WIDTH - LEFT - 80) / max([1.5, *(max(figure.ratios()) for figure in figures)])
    height = TOP + ROW * len(figures) + 34
    bottom = height - 30

    def x(value):
        return round(LEFT + value * scale, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="13" fill="#26313f">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="28" font-size="16" font-weight="600">{escape(title)}</text>',
        f'<line x1="{x(1)}" y1="{TOP - 8}" x2="{x(1)}" y2="{bottom}" stroke="#9aa5b4"/>',
        f'<text x="{x(1)}" y="{bottom + 16}" text-anchor="middle" fill="#6b7787">1 ×</text>']
    for index, figure in enumerate(figures):
        y, middle = TOP + ROW * index, TOP + ROW * index + 9
        low, high = min(figure.ratios()), max(figure.ratios())
        parts += [
            f'<text x="{LEFT - 10}" y="{middle + 5}" text-anchor="end">'
            f'{escape(figure.label)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{round(figure.ratio() * scale, 1)}" height="18" '
            f'rx="3" fill="{COLOURS[figure.is_met()]}"/>',
            f'<line x1="{x(low)}" y1="{middle}" x2="{x(high)}" y2="{middle}" stroke="#26313f" '
            'stroke-width="2"/>',
            f'<text x="{x(max(high, figure.ratio())) + 8}" y="{middle + 5}" font-weight="600">'
            f'{figure.ratio():.2f} ×</text>']
        if figure.at_most is not None:
            parts.append(f'<line x1="{x(figure.at_most)}" y1="{y - 4}" x2="{x(figure.at_most)}" '
                         f'y2="{y + 22}" stroke="#26313f" stroke-dasharray="3 2"/>')
    parts.append(f'<text x="16" y="{bottom + 16}" fill="#6b7787">dashed: target</text></svg>')
    file.write_text("\n".join(parts) + "\n")
