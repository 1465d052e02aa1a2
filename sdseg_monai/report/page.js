"use strict";
(() => {
  const UNSURE = 255;
  const MOST_LIVE = 4; // number of viewers whose voxels may be in memory
  const NOTCH = 40; // pixels that a touchpad scrolls for one slice; one step of a wheel is at least as much
  const QUIET = 250; // ms without scrolling after which the wheel scrolls slices and no longer the page
  const PAGE = [[1, 2], [0, 2], [0, 1]]; // for each plane: the axes that point left and up on the page
  const EDGES = ["APSI", "RLSI", "RLAP"]; // letters at the left, right, top and bottom edge of each plane
  const NAMES = ["Sagittal", "Coronal", "Axial"];
  const STILL = 384; // least number of pixels of the longer side of a picture
  const STRIPE = 8; // period of the stripes for the value 255, in pixels
  const LIGHTER = 0.4; // share of white in an outline
  const LINE = "rgb(127 187 227 / 0.8)"; // position of the slice that the large picture shows

  const sheet = (width, height) => Object.assign(document.createElement("canvas"), {width, height});

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  class Viewer {
    constructor(root) {
      const find = selector => root.querySelector(selector);
      this.root = root;
      this.stage = find(".big");
      this.canvas = find(".big canvas");
      this.slider = find(".slice");
      this.opacity = find(".opacity");
      this.planes = [...root.querySelectorAll(".plane")];
      this.data = null;
      this.volume = null;
      this.waking = null;
      this.visible = false;
      this.wheelDistance = 0;
      this.axis = -1;
      this.index = [];
      this.listen(find);
    }

    listen(find) {
      this.slider.addEventListener("input", () => this.show(Number(this.slider.value)));
      this.opacity.addEventListener("input", () => this.draw());
      for (const plane of this.planes) plane.addEventListener("click", () => this.turn(Number(plane.dataset.axis)));
      for (const box of this.root.querySelectorAll(".mask, .segment")) box.addEventListener("change", () => this.draw());
      for (const button of this.root.querySelectorAll(".every button")) {
        button.addEventListener("click", () => {
          for (const box of this.root.querySelectorAll(".segment:enabled")) box.checked = button.value === "all";
          this.draw();
        });
      }
      this.stage.addEventListener("wheel", event => {
        if (!this.volume || event.ctrlKey || !event.deltaY || scrolling(event)) return;
        const target = this.index[this.axis] - Math.sign(event.deltaY);
        if (target < 0 || target >= this.data.size[this.axis]) return; // after the last slice the page scrolls
        event.preventDefault();
        this.wheelDistance += event.deltaMode ? Math.sign(event.deltaY) * NOTCH : Math.max(-NOTCH, Math.min(NOTCH, event.deltaY));
        if (Math.abs(this.wheelDistance) < NOTCH) return;
        this.wheelDistance = 0;
        this.show(target);
      }, {passive: false});
      this.stage.addEventListener("keydown", event => {
        if (!this.volume || event.altKey || event.ctrlKey || event.metaKey) return;
        const last = this.data.size[this.axis] - 1, index = this.index[this.axis];
        const target = {
          ArrowUp: index + 1, ArrowRight: index + 1, ArrowDown: index - 1, ArrowLeft: index - 1,
          PageUp: index + 10, PageDown: index - 10, Home: 0, End: last,
        }[event.key];
        if (target === undefined) return;
        this.show(Math.max(0, Math.min(last, target)));
        event.preventDefault();
      });
      new ResizeObserver(() => this.draw()).observe(this.stage);
      new IntersectionObserver(entries => {
        this.visible = entries[entries.length - 1].isIntersecting;
        if (this.visible) this.wake();
      }, {rootMargin: "300px"}).observe(this.root);
    }

    wake() {
      this.waking ??= this.decode().catch(error => {
        this.root.querySelector(".wait").textContent = `Slices cannot be shown in this browser: ${error.message}`;
      });
      return this.waking;
    }

    async decode() {
      const data = JSON.parse(this.root.querySelector("script").textContent);
      const masks = await Promise.all(data.masks.map(unpack));
      const volume = {masks, levels: null};
      if (data.image) volume.levels = await this.readImage(data);
      this.data = data;
      this.volume = volume;
      if (this.axis < 0) {
        this.axis = data.axis;
        this.index = [...data.centre];
      }
      this.root.classList.add("live");
      for (const plane of this.planes) {
        plane.querySelector("canvas").hidden = false;
        plane.querySelector("img").hidden = true;
      }
      this.turn(this.axis);
      keep(this);
    }

    async readImage(data) {
      const image = new Image();
      image.src = data.image;
      await image.decode();
      const context = sheet(image.naturalWidth, image.naturalHeight).getContext("2d", {willReadFrequently: true});
      context.drawImage(image, 0, 0);
      const [a, b] = PAGE[data.axis], [width, height] = data.tile, strides = this.strides(data.size);
      const levels = new Uint32Array(data.size[0] * data.size[1] * data.size[2]);
      for (let k = 0; k < data.size[data.axis]; k++) {
        const left = (k % data.columns) * width, top = Math.floor(k / data.columns) * height;
        const tile = new Uint32Array(context.getImageData(left, top, width, height).data.buffer);
        for (let v = 0; v < data.size[b]; v++) {
          for (let u = 0; u < data.size[a]; u++) {
            levels[u * strides[a] + v * strides[b] + k * strides[data.axis]] = tile[v * width + u];
          }
        }
      }
      return levels;
    }

    sleep() {
      this.volume = this.data = this.waking = null;
      this.root.classList.remove("live");
      for (const plane of this.planes) {
        plane.querySelector("canvas").hidden = true;
        plane.querySelector("img").hidden = false;
      }
      for (const canvas of this.root.querySelectorAll("canvas")) canvas.width = canvas.height = 0;
    }

    strides(size) {
      return [1, size[0], size[0] * size[1]];
    }

    turn(axis) {
      this.axis = axis;
      if (!this.volume) return;
      for (const plane of this.planes) plane.setAttribute("aria-pressed", String(Number(plane.dataset.axis) === axis));
      ["left", "right", "top", "bottom"].forEach((side, number) => {
        const edge = this.stage.querySelector(`.edge.${side}`);
        if (edge) edge.textContent = EDGES[axis][number];
      });
      this.slider.max = this.data.size[axis] - 1;
      this.root.querySelector(".slices").hidden = this.data.size[axis] === 1;
      this.show(this.index[axis], true);
    }

    show(index, isNewPlane = false) {
      if (!this.volume || (index === this.index[this.axis] && !isNewPlane)) return;
      this.index[this.axis] = index;
      this.draw();
    }

    draw() {
      if (!this.volume) return;
      const {data, axis} = this, index = this.index[axis];
      const number = axis === data.axis ? data.kept[index] : Math.floor((index + 0.5) * data.full[axis] / data.size[axis]);
      const text = `${NAMES[axis]} ${number + 1} of ${data.full[axis]}`;
      this.slider.value = index;
      this.slider.setAttribute("aria-valuetext", text);
      this.slider.parentElement.querySelector("output").textContent = text;
      this.opacity.parentElement.querySelector("output").textContent = `${this.opacity.value} %`;
      this.colours = this.shownColours();
      this.paint(this.canvas, axis, index);
      for (const plane of this.planes) {
        const planeAxis = Number(plane.dataset.axis), canvas = plane.querySelector("canvas");
        this.paint(canvas, planeAxis, data.centre[planeAxis]);
        if (planeAxis !== axis && this.planes.length > 1) this.markSlice(canvas, planeAxis);
      }
    }

    shownColours() {
      const colours = {};
      for (const box of this.root.querySelectorAll(".segment:checked")) colours[box.value] = this.data.colours[box.value];
      return colours;
    }

    paint(canvas, axis, index) {
      const {data, volume} = this, [h, v] = PAGE[axis], columns = data.size[h], rows = data.size[v];
      const lengths = [columns * data.spacing[h], rows * data.spacing[v]];
      const side = canvas.parentElement.clientWidth;
      if (!side) return;
      const [width, height] = lengths.map(length => Math.max(1, side * length / Math.max(...lengths)));
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
      const density = Math.max(devicePixelRatio, STILL / side); // enough pixels to be printed
      canvas.width = Math.max(1, Math.round(width * density));
      canvas.height = Math.max(1, Math.round(height * density));
      const context = canvas.getContext("2d");
      context.fillRect(0, 0, canvas.width, canvas.height);
      if (volume.levels) this.lay(context, this.page(volume.levels, axis, index), columns, rows, true);
      const opacity = this.opacity.value / 100;
      const boxes = [...this.root.querySelectorAll(".mask")];
      volume.masks.forEach((mask, number) => {
        if (!boxes[number].checked || !opacity) return;
        const values = this.page(mask, axis, index);
        if (number === 0) {
          context.globalAlpha = opacity;
          const {[UNSURE]: unsureColour, ...classColours} = this.colours;
          this.lay(context, this.fill(values, classColours), columns, rows, false);
          if (unsureColour && values.includes(UNSURE)) this.hatch(context, values, columns, rows);
        } else {
          context.globalAlpha = Math.min(1, 2 * opacity);
          this.outline(context, values, columns, rows);
        }
        context.globalAlpha = 1;
      });
    }

    // The values of a slice, row by row from the top left of the page.
    page(array, axis, index) {
      const [h, v] = PAGE[axis], {size} = this.data, strides = this.strides(size);
      const columns = size[h], rows = size[v], values = new array.constructor(columns * rows);
      for (let row = 0; row < rows; row++) {
        let from = index * strides[axis] + (rows - 1 - row) * strides[v] + (columns - 1) * strides[h];
        for (let column = 0; column < columns; column++, from -= strides[h]) values[row * columns + column] = array[from];
      }
      return values;
    }

    lay(context, pixels, columns, rows, smooth) {
      const small = sheet(columns, rows);
      small.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), columns, rows), 0, 0);
      context.imageSmoothingEnabled = smooth;
      context.imageSmoothingQuality = "high";
      context.drawImage(small, 0, 0, context.canvas.width, context.canvas.height);
    }

    fill(values, colours) {
      const pixels = new Uint8ClampedArray(4 * values.length);
      values.forEach((value, place) => {
        const colour = value && colours[value];
        if (!colour) return;
        pixels.set(colour, 4 * place);
        pixels[4 * place + 3] = 255;
      });
      return pixels;
    }

    // Stripes where the value is 255, unsure: plain grey would look like the image.
    hatch(context, values, columns, rows) {
      const {width, height, clientWidth} = context.canvas, layer = sheet(width, height).getContext("2d");
      const tile = sheet(STRIPE, STRIPE), stripes = new Uint8ClampedArray(4 * STRIPE * STRIPE);
      for (let place = 0; place < STRIPE * STRIPE; place++) {
        const band = Math.floor(2 * (place % STRIPE + Math.floor(place / STRIPE)) / STRIPE) % 2;
        stripes.set([...this.data.stripes[band], 255], 4 * place);
      }
      tile.getContext("2d").putImageData(new ImageData(stripes, STRIPE, STRIPE), 0, 0);
      const pattern = layer.createPattern(tile, "repeat");
      pattern.setTransform(new DOMMatrix().scale(Math.max(1, Math.round(width / clientWidth))));
      this.lay(layer, this.fill(values, {[UNSURE]: [0, 0, 0]}), columns, rows, false);
      layer.globalCompositeOperation = "source-in";
      layer.fillStyle = pattern;
      layer.fillRect(0, 0, width, height);
      context.drawImage(layer.canvas, 0, 0);
    }

    outline(context, values, columns, rows) {
      const paths = new Map(), x = context.canvas.width / columns, y = context.canvas.height / rows;
      const at = (column, row) =>
        column < 0 || row < 0 || column >= columns || row >= rows ? 0 : values[row * columns + column];
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++) {
          const value = at(column, row);
          if (!value || !this.colours[value]) continue;
          if (!paths.has(value)) paths.set(value, new Path2D());
          const path = paths.get(value), [l, r, t, b] = [column * x, (column + 1) * x, row * y, (row + 1) * y];
          for (const [neighbour, x1, y1, x2, y2] of [
            [at(column - 1, row), l, t, l, b], [at(column + 1, row), r, t, r, b],
            [at(column, row - 1), l, t, r, t], [at(column, row + 1), l, b, r, b],
          ]) {
            if (neighbour === value) continue;
            path.moveTo(x1, y1);
            path.lineTo(x2, y2);
          }
        }
      }
      context.lineCap = "round";
      const width = 1.75 * context.canvas.width / context.canvas.clientWidth;
      for (const path of paths.values()) {
        context.strokeStyle = "rgb(0 0 0 / 0.55)";
        context.lineWidth = 2 * width;
        context.stroke(path);
      }
      for (const [value, path] of paths) {
        context.strokeStyle = `rgb(${this.colours[value].map(part => part + LIGHTER * (255 - part)).join(" ")})`;
        context.lineWidth = width;
        context.stroke(path);
      }
    }

    markSlice(canvas, planeAxis) {
      const [h] = PAGE[planeAxis], {size} = this.data, context = canvas.getContext("2d");
      const place = (size[this.axis] - 0.5 - this.index[this.axis]) / size[this.axis];
      const width = Math.max(1, Math.round(canvas.width / canvas.clientWidth));
      context.fillStyle = LINE;
      if (this.axis === h) context.fillRect(Math.round(place * canvas.width), 0, width, canvas.height);
      else context.fillRect(0, Math.round(place * canvas.height), canvas.width, width);
    }
  }

  const liveViewers = []; // in the order in which they were woken
  function keep(viewer) {
    if (liveViewers.includes(viewer)) liveViewers.splice(liveViewers.indexOf(viewer), 1);
    liveViewers.push(viewer);
    while (liveViewers.length > MOST_LIVE) {
      const oldest = liveViewers.findIndex(liveViewer => !liveViewer.visible);
      if (oldest < 0) return;
      liveViewers.splice(oldest, 1)[0].sleep();
    }
  }

  let scrollTime = -Infinity; // when the wheel scrolled the page last
  addEventListener("wheel", event => {
    if (!event.target.closest?.(".big")) scrollTime = event.timeStamp;
  }, {passive: true, capture: true});
  function scrolling(event) {
    const isScrolling = event.timeStamp - scrollTime < QUIET;
    if (isScrolling) scrollTime = event.timeStamp;
    return isScrolling;
  }

  function sortBy(table, column, head) {
    const rows = [...table.tBodies[0].rows], isDescending = head.getAttribute("aria-sort") === "ascending";
    const key = row => row.cells[column]?.dataset.sort ?? row.cells[column]?.textContent ?? "";
    const isNumeric = rows.some(row => row.cells[column]?.dataset.sort !== undefined);
    const compare = (rowA, rowB) => {
      const [a, b] = [key(rowA), key(rowB)];
      if (a === "" || b === "") return (a === "") - (b === ""); // unknown values come last in both orders
      const order = isNumeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, {numeric: true});
      return isDescending ? -order : order;
    };
    for (const cell of head.parentElement.cells) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", isDescending ? "descending" : "ascending");
    table.tBodies[0].append(...rows.sort(compare));
  }

  document.documentElement.classList.add("js");
  for (const table of document.querySelectorAll(".sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => sortBy(table, column, head));
    });
  }
  for (const root of document.querySelectorAll(".viewer")) new Viewer(root);
})();
