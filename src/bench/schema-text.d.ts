declare module "*.schema.json?raw" {
  const text: string;
  export default text;
}
