// Builds elements. The only way text reaches the page: as text nodes and attributes, never as markup,
// so that a node or model named like HTML stays a name.

const SVG = 'http://www.w3.org/2000/svg';

// el('p', {class: 'sub', on: {click: fn}}, 'text', child)
export function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name === 'on') {
      for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    } else if (value === true) {
      node.setAttribute(name, '');
    } else if (value !== false && value !== null && value !== undefined) {
      node.setAttribute(name, value);
    }
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// Touches the document only when something changed: figures come twice a second.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

export function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

let lastId = 0;

export function newId(prefix) {
  lastId += 1;
  return `${prefix}-${lastId}`;
}

export function icon(name) {
  return svg('svg', { class: 'icon', viewBox: '0 0 24 24', 'aria-hidden': 'true' }, svg('path', { d: ICONS[name] }));
}

const ICONS = {
  plus: 'M12 5v14M5 12h14',
  copy: 'M9 9h10v11H9zM5 15V4h10',
  check: 'm5 12.5 4.5 4.5L19 7.5',
  download: 'M12 4v11M7.5 11 12 15.5 16.5 11M5 20h14',
  chevron: 'm9 6 6 6-6 6',
  left: 'm15 6-6 6 6 6',
  close: 'm6 6 12 12M18 6 6 18',
  edit: 'M5 19h3.5L19 8.5 15.5 5 5 15.5zM13 7.5l3.5 3.5',
  bin: 'M5 7h14M10 7V4.5h4V7M7 7l.8 12.5h8.4L17 7M10.3 10.5v5.5M13.7 10.5v5.5',
  warning: 'M12 4 2.8 20h18.4zM12 10.5v4M12 17.2h.01',
  system: 'M4 5h16v11H4zM9 20h6M12 16v4',
  light: 'M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M5.3 18.7l1.4-1.4M17.3 6.7l1.4-1.4',
  dark: 'M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5z',
  // States of nodes and of the router: each has a shape of its own, so that colour is never needed.
  good: 'M12 5a7 7 0 1 0 0 14 7 7 0 0 0 0-14z',
  waiting: 'M12 5v2M12 17v2M5 12h2M17 12h2M7 7l1.4 1.4M15.6 15.6 17 17M7 17l1.4-1.4M15.6 8.4 17 7',
  leaving: 'M12 5v13M6.5 12.5 12 18l5.5-5.5',
  gone: 'M12 5a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM7.2 16.8l9.6-9.6',
  square: 'M6 6h12v12H6z',
};
